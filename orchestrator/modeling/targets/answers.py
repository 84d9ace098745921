"""Targets of labelled tasks: several labels, numbers, an extracted answer, a choice, similarity.

Legend: B sequences, S length, D model width, K labels or numbers, N rows, C choices per row, P
pairs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.targets.answer_configs import (
    ChoiceConfig,
    MultilabelConfig,
    RegressionConfig,
    SimilarityConfig,
    SpanConfig,
)
from orchestrator.modeling.targets.sequence import HIDDEN_ACTIVATIONS, SequenceTarget, pool
from orchestrator.modeling.targets.transform import build_transform

LOWEST = torch.finfo(torch.float32).min
"""Logit of what does not exist; finite, so that a row without any has a gradient of zero."""

BORDERS = 2
"""An answer has a first and a last token."""


class AnswersTarget(SequenceTarget):
    """The head of ``cls`` with other losses."""

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
        super().__init__(config.layout, dimensions, config.num_labels)

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
        super().__init__(config.layout, dimensions, config.num_labels)
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


class SpanTarget(Target):
    """Dropout and a linear layer with two outputs per token (Devlin et al. 2019, section 4.2).

    ``labels`` are [B, 2] int64: places of the first and the last token, -100 where the answer is
    not in the sequence and nothing is asked; a question without an answer points at token 0.
    Parameters: ``output`` [2, D]; ``transform.*`` if there is one.
    """

    Config = SpanConfig

    def __init__(self, config: SpanConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.transform = build_transform(config.transform, dimensions.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(dimensions.hidden_size, BORDERS)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of sequences with an answer, 0-dim int64."""
        return (labels[:, 0] != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the mean of the two cross entropies over places, summed over sequences.

        Padding is never a place: its logits are -inf.
        """
        logits = self.predict(hidden, mask).float()
        places = logits.masked_fill(~mask[..., None], -torch.inf).transpose(1, 2)
        loss = F.cross_entropy(
            places.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED_LABEL
        )
        best = places.detach().argmax(-1)
        correct = (best == labels).all(dim=1).sum()
        return TargetOutput(loss / BORDERS, self.count(labels), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of being the first and the last token, [B, S, 2]."""
        if self.transform is not None:
            hidden = self.transform(hidden)
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


class ChoiceTarget(Target):
    """Pool, optional hidden layer, and one logit per sequence; C sequences in a row are one choice.

    ``labels`` are [N] int64 of N = B / C rows: the right choice, or -100. A row with fewer than C
    choices is filled up with sequences without real tokens, which cannot be chosen. Parameters:
    ``output`` [1, D] and, if hidden, ``dense`` [D, D]; ``transform.*`` if there is one.
    """

    Config = ChoiceConfig

    def __init__(self, config: ChoiceConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.pooling = config.pooling
        self.activation = HIDDEN_ACTIVATIONS[config.hidden_activation]
        self.dense = nn.Linear(width, width) if config.hidden else None
        self.transform = build_transform(config.transform, width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, 1)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled rows, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy over the choices, summed over rows."""
        logits = self.predict(hidden, mask).float()
        logits = logits.masked_fill(~mask.any(dim=1)[:, None], LOWEST).view(len(labels), -1)
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED_LABEL)
        correct = (logits.detach().argmax(-1) == labels).sum()
        return TargetOutput(loss, self.count(labels), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logit of every sequence, [B, 1]."""
        pooled = pool(hidden, mask, self.pooling)
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        if self.transform is not None:
            pooled = self.transform(pooled)
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


class SimilarityTarget(Target):
    """Pool, optional projection; a pair is two sequences in a row.

    ``labels`` are [P] float of P = B / 2 pairs: with the loss ``cosine`` the score that the cosine
    of the two vectors should have; with ``contrastive`` 1 for a pair that belongs together, any
    other number for two texts that only serve as wrong answers. NaN: the pair does not count.
    A sequence without real tokens is not a text: negatives are put two in a pair of label 0, and
    the last one beside such a sequence.
    Each text that belongs to a pair is one loss term in the contrastive loss (its partner among all
    texts of the batch but itself; Gao et al. 2021, equation 1), each pair one with ``cosine``.
    Parameters: ``projection`` [P, D], if there is one.
    """

    Config = SimilarityConfig

    def __init__(self, config: SimilarityConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.pooling, self.loss = config.pooling, config.loss
        self.temperature = config.temperature
        size = config.projection_size
        self.projection = None if size is None else nn.Linear(dimensions.hidden_size, size)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of loss terms, 0-dim int64."""
        return 2 * (labels == 1).sum() if self.loss == "contrastive" else labels.isfinite().sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the summed loss of the pairs of ``hidden`` [2 P, S, D]."""
        vectors = F.normalize(self.predict(hidden, mask).float(), dim=-1)
        if self.loss == "cosine":
            return self._cosine(vectors, labels)
        cosines = (vectors @ vectors.T).float() / self.temperature  # autocast multiplies in bf16
        itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        logits = cosines.masked_fill(itself, -torch.inf)
        logits = logits.masked_fill(~mask.any(dim=1), LOWEST)
        partner = torch.arange(len(vectors), device=vectors.device) ^ 1
        asked = (labels == 1).repeat_interleave(2)
        answers = torch.where(asked, partner, IGNORED_LABEL)
        loss = F.cross_entropy(logits, answers, reduction="sum", ignore_index=IGNORED_LABEL)
        correct = ((logits.detach().argmax(-1) == partner) & asked).sum()
        return TargetOutput(loss, self.count(labels), correct)

    def _cosine(self, vectors: Tensor, labels: Tensor) -> TargetOutput:
        real = labels.isfinite()
        cosine = (vectors[0::2] * vectors[1::2]).sum(-1)
        error = torch.where(real, cosine - labels.nan_to_num(), 0.0)
        correct = (real & (error.detach().abs() < 0.1)).sum()
        return TargetOutput((error**2).sum(), self.count(labels), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per sequence, not normalized, [B, D]."""
        pooled = pool(hidden, mask, self.pooling)
        projected: Tensor = pooled if self.projection is None else self.projection(pooled)
        return projected
