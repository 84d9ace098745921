"""One vector per sequence: what an embedding model answers with.

Legend: B batch, S length, D model width.
"""

from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import Target, TargetOutput
from orchestrator.modeling.layers.pooling import pool
from orchestrator.modeling.targets.text_configs import VectorConfig

NO_LABELS = "A `vector` target has no labels: it answers, and learns nothing. Leave them out."


class VectorTarget(Target):
    """Pool, optional linear layer with tanh; neither labels nor a loss.

    BERT's pooler is ``first`` and hidden, SBERT's (Reimers and Gurevych 2019) is ``mean``.
    Parameters: ``dense`` [D, D] if hidden.
    """

    Config = VectorConfig

    def __init__(self, config: VectorConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.pooling = config.pooling
        self.dense = nn.Linear(width, width) if config.hidden else None

    def count(self, labels: Tensor) -> Tensor:
        """Refuse labels.

        Raises:
            InputError: Always.
        """
        raise InputError(NO_LABELS)

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Refuse labels.

        Raises:
            InputError: Always.
        """
        raise InputError(NO_LABELS)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per sequence, [B, D]."""
        pooled = pool(hidden, mask, self.pooling)
        return pooled if self.dense is None else self.dense(pooled).tanh()
