"""Targets with other answers per sequence: several labels, numbers, a vector; balance of experts.

The balance of experts is a target of its own, so that it is weighted and measured like any other.

Legend: B batch, S length, D model width, E experts, K labels or numbers.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.layers.feed_forward import balance_loss
from orchestrator.modeling.targets.configs import (
    AnswersConfig,
    BalanceConfig,
    MultilabelConfig,
    RegressionConfig,
    StatesConfig,
    TargetConfig,
    VectorConfig,
)
from orchestrator.modeling.targets.sequence import SequenceTarget, pool


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


class BalanceTarget(Target):
    """The balance loss of the encoder's routers, times the number of real tokens.

    ``labels`` are the routers' answers, [layers, B * S, E]. The loss of a batch is not a sum over
    tokens (it is a product of two means), so that cutting a batch differently changes it a little,
    here as in every implementation. No parameters, no answers to be right about.
    """

    Config = BalanceConfig
    reads_router: ClassVar[bool] = True

    def __init__(self, config: BalanceConfig, dimensions: Dimensions) -> None:
        super().__init__()
        del dimensions
        self.top_k = config.top_k

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of real tokens of a mask [B, S], 0-dim int64."""
        return labels.bool().sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the balance loss times the number of real tokens."""
        terms = self.count(mask)
        loss = balance_loss(labels, mask.flatten(), self.top_k) * terms
        return TargetOutput(loss, terms, terms.new_zeros(()))

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the mask: there is nothing to predict."""
        return mask


class SilentTarget(Target):
    """A head without labels and without a loss."""

    Config: ClassVar[type[TargetConfig]]

    def count(self, labels: Tensor) -> Tensor:
        """Refuse labels.

        Raises:
            InputError: Always.
        """
        raise self._no_labels()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Refuse labels.

        Raises:
            InputError: Always.
        """
        raise self._no_labels()

    def _no_labels(self) -> InputError:
        name = type(self).Config.type_name()
        return InputError(
            f"A `{name}` target has no labels: it answers, and learns nothing. Leave them out."
        )


class VectorTarget(SilentTarget):
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

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per sequence, [B, D]."""
        pooled = pool(hidden, mask, self.pooling)
        return pooled if self.dense is None else self.dense(pooled).tanh()


class StatesTarget(SilentTarget):
    """The outputs of encoder layers, all through one projection where there is one.

    Parameters: ``projection`` [W, D], if there is one.
    """

    Config = StatesConfig
    reads_layers = True

    def __init__(self, config: StatesConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.layers, width = config.layers, config.width
        self.projection = None if width is None else nn.Linear(dimensions.hidden_size, width)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, S, L, W], or D where there is no projection, of all layers [B, S, N, D].

        Raises:
            InputError: The encoder has fewer layers than are wanted.
        """
        if max(self.layers) >= hidden.shape[2]:
            raise InputError(
                f"layer {max(self.layers)} is wanted, the encoder has {hidden.shape[2] - 1}."
            )
        chosen = hidden[:, :, list(self.layers)]
        return chosen if self.projection is None else self.projection(chosen)
