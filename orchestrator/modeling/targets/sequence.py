"""Targets with one answer for a sequence.

Legend: B batch, S length, D model width, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.layers.pooling import pool
from orchestrator.modeling.targets.configs import (
    ClsConfig,
    NspConfig,
    PairConfig,
    SopConfig,
    SpConfig,
)

SENTENCE_PAIR_LABELS = 2
"""Class 0: the pair is as it was (in order, the next sentence); class 1: it was changed."""

HIDDEN_ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
"""What follows the hidden layer."""


class SequenceTarget(Target):
    """Pool, optional linear layer with tanh or ReLU, dropout, linear classifier.

    ``labels`` are [B] int64, -100 where there is none; smoothed in training mode only, so that
    losses of evaluations compare.
    Parameters: ``output`` [K, D] and, if hidden, ``dense`` [D, D].
    """

    def __init__(
        self,
        width: int,
        labels: int,
        *,
        pooling: str,
        hidden: bool,
        dropout: float,
        activation: str = "tanh",
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.pooling, self.smoothing = pooling, smoothing
        self.activation = HIDDEN_ACTIVATIONS[activation]
        self.dense = nn.Linear(width, width) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, labels)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled sequences, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy summed over labelled sequences of ``hidden`` [B, S, D]."""
        logits = self.predict(hidden, mask)
        loss = F.cross_entropy(
            logits,
            labels,
            reduction="sum",
            ignore_index=IGNORED_LABEL,
            label_smoothing=self.smoothing if self.training else 0.0,
        )
        correct = (logits.detach().argmax(-1) == labels).sum()
        return TargetOutput(loss, self.count(labels), correct)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector for each sequence, [B, D]."""
        return pool(hidden, mask, self.pooling)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every sequence, [B, K]."""
        pooled = self.pool(hidden, mask)
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


class ClsTarget(SequenceTarget):
    """Classification with free pooling. Parameters: also ``norm``, if there is a ``norm_eps``."""

    Config = ClsConfig

    def __init__(self, config: ClsConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.hidden_size,
            config.num_labels,
            pooling=config.pooling,
            hidden=config.hidden,
            dropout=config.dropout,
            activation=config.hidden_activation,
            smoothing=config.label_smoothing,
        )
        eps = config.norm_eps
        self.norm = None if eps is None else nn.LayerNorm(dimensions.hidden_size, eps=eps)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector for each sequence, normalised if the config says so, [B, D]."""
        pooled = super().pool(hidden, mask)
        return pooled if self.norm is None else self.norm(pooled)


class PairTarget(SequenceTarget):
    """First token, linear layer, tanh, two classes: BERT's pooler and sentence-pair head."""

    def __init__(self, config: PairConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.hidden_size,
            SENTENCE_PAIR_LABELS,
            pooling="first",
            hidden=True,
            dropout=config.dropout,
        )


class SpTarget(PairTarget):
    """Two classes of sentence pairs, whatever they mean."""

    Config = SpConfig


class NspTarget(PairTarget):
    """Next sentence prediction (Devlin et al. 2019): 0 follows, 1 random."""

    Config = NspConfig


class SopTarget(PairTarget):
    """Sentence order prediction (Lan et al. 2020): 0 in order, 1 swapped."""

    Config = SopConfig
