"""Targets with several answers for a sequence: labels that are true or not, and numbers.

Legend: B batch, S length, D model width, K labels or numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, TargetOutput
from orchestrator.modeling.targets.sequence import SequenceTarget
from orchestrator.modeling.targets.text_configs import (
    AnswersConfig,
    MultilabelConfig,
    RegressionConfig,
)


class AnswersTarget(SequenceTarget):
    """The head of ``cls`` with other losses.

    Parameters: ``output`` [K, D] and, if hidden, ``dense`` [D, D].
    """

    def __init__(self, config: AnswersConfig, dimensions: Dimensions, answers: int) -> None:
        super().__init__(
            dimensions.hidden_size,
            answers,
            pooling=config.pooling,
            hidden=config.hidden,
            dropout=config.dropout,
            activation=config.hidden_activation,
        )

    def answers_for(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers in fp32 and the labels in their shape, [B, K] both.

        Raises:
            InputError: There are not K labels for each sequence.
        """
        answers = self.predict(hidden, mask).float()
        if labels.numel() != answers.numel():
            raise InputError(
                f"labels are {list(labels.shape)}, the target answers with {list(answers.shape)}. "
                "Give one label for each answer."
            )
        return answers, labels.view(answers.shape)


class MultilabelTarget(AnswersTarget):
    """An independent yes or no for each label.

    ``labels`` are [B, K], 1 or 0, and -100 where nothing is known; int64 or float. A loss term is
    one label of one sequence.
    """

    Config = MultilabelConfig

    def __init__(self, config: MultilabelConfig, dimensions: Dimensions) -> None:
        super().__init__(config, dimensions, config.num_labels)

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the binary cross entropy summed over known labels of ``hidden`` [B, S, D]."""
        logits, labels = self.answers_for(hidden, mask, labels)
        known = labels != IGNORED_LABEL
        logits, labels = logits[known], labels[known]
        loss = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
        correct = ((logits.detach() > 0) == labels.bool()).sum()
        return TargetOutput(loss, known.sum(), correct)


class RegressionTarget(AnswersTarget):
    """Numbers, by least squares.

    ``labels`` are [B], or [B, K] for several numbers; float, NaN where nothing is known. A loss
    term is one number of one sequence; it is correct within the tolerance.
    """

    Config = RegressionConfig

    def __init__(self, config: RegressionConfig, dimensions: Dimensions) -> None:
        super().__init__(config, dimensions, config.num_labels)
        self.tolerance = config.tolerance

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of known numbers, 0-dim int64."""
        return (~torch.isnan(labels)).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the squared error summed over known numbers of ``hidden`` [B, S, D]."""
        answers, labels = self.answers_for(hidden, mask, labels.float())
        known = ~torch.isnan(labels)
        distance = answers[known] - labels[known]
        correct = (distance.detach().abs() <= self.tolerance).sum()
        return TargetOutput(distance.square().sum(), known.sum(), correct)
