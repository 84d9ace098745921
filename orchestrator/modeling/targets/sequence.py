"""Targets with one answer per sequence, their pooling, and heads that answer without labels.

The balance of experts is a target of its own, so that it is weighted and measured like any other.

Legend: B batch, S length, D model width, K classes, E experts, L of N layers, W projected width.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.layers.feed_forward import balance_loss
from orchestrator.modeling.targets.attention_pooling import AttentionPool
from orchestrator.modeling.targets.configs import (
    BalanceConfig,
    ClsConfig,
    HeadLayout,
    ItmConfig,
    NspConfig,
    PairConfig,
    SopConfig,
    SpConfig,
    StatesConfig,
    TargetConfig,
    VectorConfig,
)
from orchestrator.modeling.targets.transform import build_transform


def pool(hidden: Tensor, mask: Tensor, how: str, registers: int = 0) -> Tensor:
    """Pool real positions.

    Args:
        hidden: [B, S, D].
        mask: True at real positions, [B, S].
        how: ``mean``; ``first`` or ``last`` real position; ``max`` per channel; ``rest``, the mean
            without the first position and the registers; ``second``, the second position;
            ``first_rest``, the first beside the rest.
        registers: Registers after the first position.

    Returns:
        [B, D], or [B, 2 D] for ``first_rest``; finite for a sequence without real positions (zeros
        for mean and max).
    """
    if how == "second":
        return hidden[:, 1]
    if how == "rest":
        return pool(hidden[:, 1 + registers :], mask[:, 1 + registers :], "mean")
    if how == "first_rest":
        parts = [pool(hidden, mask, each, registers) for each in ("first", "rest")]
        return torch.cat(parts, dim=-1)
    if how == "mean":
        weights = mask.to(hidden.dtype)
        total = torch.einsum("bsd,bs->bd", hidden, weights)
        return total / weights.sum(1, keepdim=True).clamp(min=1)
    if how == "max":
        lowest = hidden.masked_fill(~mask[..., None], torch.finfo(hidden.dtype).min).amax(1)
        return lowest.masked_fill(~mask.any(1, keepdim=True), 0.0)
    position = torch.arange(mask.shape[1], device=mask.device)
    last = how == "last"
    index = torch.where(mask, position if last else -position, -mask.shape[1]).argmax(1)
    return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


SENTENCE_PAIR_LABELS = 2
"""Class 0: the pair is as it was (in order, the next sentence); class 1: it was changed."""


HIDDEN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
    "none": lambda x: x,
}
"""Activations after the hidden layer."""


class SequenceTarget(Target):
    """Pool, optional norm, optional linear layer with activation, dropout, linear classifier.

    ``labels`` are [B] int64, -100 where there is none; smoothed in training mode only, so that
    losses of evaluations compare.
    Parameters: ``output`` [K, D]; if hidden, ``dense`` [inner, D] and ``output`` [K, inner]; with
    ``norm_eps``, ``norm`` [D]; ``transform.*`` if there is one. D is twice the model's width for
    ``first_rest``.
    """

    def __init__(
        self,
        layout: HeadLayout,
        dimensions: Dimensions,
        answers: int,
        *,
        smoothing: float = 0.0,
        class_weights: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        # A list and not a buffer: it is part of the config, and no part of the stored weights.
        self.class_weights = class_weights
        self.pooling, self.smoothing = layout.pooling, smoothing
        self.registers = dimensions.registers
        if layout.pooling == "last_token":
            self.skips_token, self.pooling = dimensions.pad_token_id, "last"
        width = dimensions.hidden_size * (2 if layout.pooling == "first_rest" else 1)
        inner = layout.inner or width
        self.activation = HIDDEN_ACTIVATIONS[layout.activation]
        self.dense = nn.Linear(width, inner) if layout.hidden else None
        self.transform = build_transform(layout.transform, width)
        self.pools_last = layout.pools_last
        self.dropout = nn.Dropout(layout.dropout)
        read = inner if layout.hidden else width
        self.output = nn.Linear(read, answers, bias=layout.bias)
        self.norm = None if layout.norm_eps is None else nn.LayerNorm(width, eps=layout.norm_eps)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled sequences, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy summed over labelled sequences of ``hidden`` [B, S, D]."""
        logits = self.predict(hidden, mask)
        weights = None
        if self.class_weights is not None and self.training:
            weights = logits.new_tensor(self.class_weights)
        loss = F.cross_entropy(
            logits,
            labels,
            weight=weights,
            reduction="sum",
            ignore_index=IGNORED_LABEL,
            label_smoothing=self.smoothing if self.training else 0.0,
        )
        correct = (logits.detach().argmax(-1) == labels).sum()
        return TargetOutput(loss, self.count(labels), correct)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector for each sequence, normalized if the config says so, [B, D]."""
        pooled = pool(hidden, mask, self.pooling, self.registers)
        return pooled if self.norm is None else self.norm(pooled)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every sequence, [B, K]."""
        if self.transform is not None and self.pools_last:
            pooled = self.pool(self.transform(hidden), mask)
        else:
            pooled = self.pool(hidden, mask)
            pooled = pooled if self.transform is None else self.transform(pooled)
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


class ClsTarget(SequenceTarget):
    """Classification with free pooling."""

    Config = ClsConfig

    def __init__(self, config: ClsConfig, dimensions: Dimensions) -> None:
        super().__init__(
            config.layout,
            dimensions,
            config.num_labels,
            smoothing=config.label_smoothing,
            class_weights=config.class_weights,
        )


class PairTarget(SequenceTarget):
    """First token, linear layer, tanh, two classes: BERT's pooler and sentence-pair head."""

    def __init__(self, config: PairConfig, dimensions: Dimensions) -> None:
        layout = HeadLayout(pooling="first", hidden=True, dropout=config.dropout)
        super().__init__(layout, dimensions, SENTENCE_PAIR_LABELS)


class SpTarget(PairTarget):
    """Two classes of sentence pairs, whatever they mean."""

    Config = SpConfig


class NspTarget(PairTarget):
    """Next sentence prediction (Devlin et al. 2019): 0 follows, 1 random."""

    Config = NspConfig


class SopTarget(PairTarget):
    """Sentence order prediction (Lan et al. 2020): 0 in order, 1 swapped."""

    Config = SopConfig


class ItmTarget(SequenceTarget):
    """Image-text matching: first token, linear layer, tanh, two classes or one score.

    ``labels`` are [B] int64: 1 where text and image belong together, 0 where not, -100 where
    nothing is known. Parameters: ``dense`` [D, D], ``output`` [2, D] or, to rank, [1, D].
    """

    Config = ItmConfig

    def __init__(self, config: ItmConfig, dimensions: Dimensions) -> None:
        layout = HeadLayout(pooling="first", hidden=True, dropout=config.dropout)
        super().__init__(layout, dimensions, 1 if config.rank else 2)
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
    """Pool, optional norm, linear layer with tanh, and projection; neither labels nor a loss.

    BERT's pooler is ``first`` and hidden, SBERT's (Reimers and Gurevych 2019) is ``mean``; a
    learned query (SigLIP) reads all positions.
    Parameters: ``norm`` [D], ``dense`` [D, D] if hidden, ``projection`` [P, D]; or ``pool.*``.
    """

    Config = VectorConfig

    def __init__(self, config: VectorConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width, size = dimensions.hidden_size, config.projection_size
        self.pooling, self.registers = config.pooling, dimensions.registers
        self.pool = None if config.attention is None else AttentionPool(config.attention, width)
        self.norm = None if config.norm_eps is None else nn.LayerNorm(width, eps=config.norm_eps)
        self.dense = nn.Linear(width, width) if config.hidden else None
        bias = config.projection_bias
        self.projection = None if size is None else nn.Linear(width, size, bias=bias)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per sequence, [B, D] or [B, P]."""
        if self.pool is not None:
            read: Tensor = self.pool(hidden, mask)
            return read
        pooled = pool(hidden, mask, self.pooling, self.registers)
        pooled = pooled if self.norm is None else self.norm(pooled)
        pooled = pooled if self.dense is None else self.dense(pooled).tanh()
        return pooled if self.projection is None else self.projection(pooled)


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
