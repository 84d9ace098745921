"""Classification of pairs from one vector for each half (Reimers and Gurevych 2019, section 3).

Legend: B batch, D model width, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Streams, Target, TargetOutput
from orchestrator.modeling.layers.pooling import pool
from orchestrator.modeling.targets.pair_configs import SiameseConfig


class SiameseTarget(Target):
    """softmax(W [u; v; |u - v|]), with other features if the config says so.

    ``labels`` are [B] int64, -100 where there is none.
    Parameters: ``output`` [K, features * D].
    """

    Config = SiameseConfig

    def __init__(self, config: SiameseConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.pooling, self.features = config.pooling, config.features
        self.dropout = nn.Dropout(config.dropout)
        width = len(config.features) * dimensions.hidden_size
        self.output = nn.Linear(width, config.num_labels)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled pairs, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def vectors(self, hidden: Streams, mask: Streams) -> Streams:
        """Return u and v, [B, D] each."""
        return Streams(*(pool(h, m, self.pooling) for h, m in zip(hidden, mask, strict=True)))

    def forward(  # type: ignore[override]
        self, hidden: Streams, mask: Streams, labels: Tensor
    ) -> TargetOutput:
        """Return the cross entropy summed over labelled pairs of ``hidden`` [B, S, D] each."""
        logits = self.predict(hidden, mask)
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED_LABEL)
        correct = (logits.detach().argmax(-1) == labels).sum()
        return TargetOutput(loss, self.count(labels), correct)

    def predict(  # type: ignore[override]
        self, hidden: Streams, mask: Streams
    ) -> Tensor:
        """Return logits of every pair, [B, K]."""
        u, v = self.vectors(hidden, mask)
        known = {"first": u, "second": v, "difference": (u - v).abs(), "product": u * v}
        read = torch.cat([known[name] for name in self.features], dim=-1)
        logits: Tensor = self.output(self.dropout(read))
        return logits
