"""Targets with one answer for every token, which is not a token.

Logits are computed only where there is a label. Legend: B batch, S length, N labelled positions, D
model width, K classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.layers.activations import ACTIVATIONS
from orchestrator.modeling.targets.text_configs import RtdConfig, TagsConfig


class TagsTarget(Target):
    """Dropout and a linear classifier at every position (transformers' ForTokenClassification).

    ``labels`` are [B, S] int64, -100 where there is none. Parameters: ``output`` [K, D].
    """

    Config = TagsConfig

    def __init__(self, config: TagsConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(dimensions.hidden_size, config.num_labels)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled positions, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy summed over labelled positions of ``hidden`` [B, S, D]."""
        chosen = labels != IGNORED_LABEL
        logits, answers = self.predict(hidden[chosen], mask), labels[chosen]
        loss = F.cross_entropy(logits.float(), answers, reduction="sum")
        correct = (logits.detach().argmax(-1) == answers).sum()
        return TargetOutput(loss, chosen.sum(), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every position, [..., K] for ``hidden`` [..., D]."""
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


class RtdTarget(Target):
    """Replaced token detection (Clark et al. 2020, section 2): linear, activation, one logit.

    ``labels`` are [B, S] int64: 1 where the generator replaced the token, 0 where it is the
    original, -100 where nothing is asked. Parameters: ``dense`` [D, D], ``output`` [1, D].
    """

    Config = RtdConfig

    def __init__(self, config: RtdConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.dense = nn.Linear(width, width)
        self.activation = ACTIVATIONS[config.activation]
        self.output = nn.Linear(width, 1)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled positions, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the binary cross entropy summed over labelled positions of [B, S, D]."""
        chosen = labels != IGNORED_LABEL
        logits, answers = self.predict(hidden[chosen], mask).float(), labels[chosen]
        loss = F.binary_cross_entropy_with_logits(logits, answers.float(), reduction="sum")
        correct = ((logits.detach() > 0) == answers.bool()).sum()
        return TargetOutput(loss, chosen.sum(), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logit of "replaced" at every position, [...] for ``hidden`` [..., D]."""
        logits: Tensor = self.output(self.activation(self.dense(hidden)))
        return logits.squeeze(-1)
