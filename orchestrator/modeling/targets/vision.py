"""Targets for images, and for images with text.

Legend: B batch, S positions, D model width, V visual vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, TargetOutput
from orchestrator.modeling.targets.configs import ItmConfig, MimConfig
from orchestrator.modeling.targets.sequence import SequenceTarget
from orchestrator.modeling.targets.vocabulary import TokenTarget


class MimTarget(TokenTarget):
    """Masked image modelling (Bao et al. 2022, equation 2).

    ``labels`` are [B, S] int64 over all positions, tokens before the patches included: the code of
    a masked patch, -100 elsewhere. Parameters: ``output.weight`` [V, D], ``output.bias`` [V].
    """

    Config = MimConfig

    def __init__(self, config: MimConfig, dimensions: Dimensions) -> None:
        super().__init__(dimensions.hidden_size, config.num_codes, tie=False, bias=True)


class ItmTarget(SequenceTarget):
    """Image-text matching: first token, linear layer, tanh, two classes or one score.

    ``labels`` are [B] int64: 1 where text and image belong together, 0 where not, -100 where
    nothing is known. Parameters: ``dense`` [D, D], ``output`` [2, D] or, to rank, [1, D].
    """

    Config = ItmConfig

    def __init__(self, config: ItmConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.hidden_size,
            1 if config.rank else 2,
            pooling="first",
            hidden=True,
            dropout=config.dropout,
        )
        self.rank = config.rank

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy summed over known pairs of ``hidden`` [B, S, D]."""
        if not self.rank:
            return super().forward(hidden, mask, labels)
        known = labels != IGNORED_LABEL
        scores, truth = self.predict(hidden, mask)[known, 0].float(), labels[known]
        loss = F.binary_cross_entropy_with_logits(scores, truth.float(), reduction="sum")
        correct = ((scores.detach() > 0) == truth.bool()).sum()
        return TargetOutput(loss, known.sum(), correct)
