"""Targets that compare two streams: contrast, and classification of pairs.

Contrast: CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023). Rows of all workers are gathered
with gradients. Classification of pairs from one vector for each half: Reimers and Gurevych 2019,
section 3.

Legend: B batch of this worker, N pairs of all workers, S and T positions of the streams, D model
width, P width of the compared vectors, K classes.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.initialization import Constant, Draws
from orchestrator.modeling.interfaces import IGNORED_LABEL, Streams, Target, TargetOutput
from orchestrator.modeling.targets.attention_pooling import AttentionPool
from orchestrator.modeling.targets.configs import AttentionPoolingConfig
from orchestrator.modeling.targets.sequence import pool
from orchestrator.modeling.targets.stream_configs import (
    ClrConfig,
    SiameseConfig,
    StreamHeadConfig,
)


class StreamHead(nn.Module):
    """Pool, optional linear layer, length 1.

    Parameters: ``pool.*`` if attention pools, ``projection``.
    """

    def __init__(self, config: StreamHeadConfig, width: int, size: int | None) -> None:
        super().__init__()
        pooling = config.pooling
        self.pool: AttentionPool | None = None
        self.how = ""
        if isinstance(pooling, AttentionPoolingConfig):
            self.pool = AttentionPool(pooling, width)
        else:
            self.how = pooling
        result = config.width(width, size)
        self.projection = nn.Linear(width, result, bias=config.bias) if config.projection else None

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors [B, P] in fp32 for ``hidden`` [B, S, D] and its mask [B, S]."""
        pooled = pool(hidden, mask, self.how) if self.pool is None else self.pool(hidden, mask)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return F.normalize(pooled.float(), dim=-1)


class Temperature(nn.Module):
    """Similarities to logits: exp(scale) * similarity + bias.

    The scale is limited while training alone: what was learned elsewhere answers as it did there.
    Parameters: ``scale`` [1], ``bias`` [1] (sigmoid only).
    """

    def __init__(self, config: ClrConfig) -> None:
        super().__init__()
        self.first_scale, self.first_bias = config.first_scale, config.first_bias
        self.limit = config.scale_limit
        self.scale = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1)) if config.loss == "sigmoid" else None

    def first_values(self, std: float) -> Draws:
        """Both begin as the config says."""
        del std
        scale: Draws = {"scale": Constant(self.first_scale)}
        return scale if self.bias is None else scale | {"bias": Constant(self.first_bias)}

    def forward(self, similarity: Tensor) -> Tensor:
        """Return logits of any shape."""
        scale: Tensor = self.scale
        if self.training and self.limit is not None:
            scale = _AtMost.apply(scale, self.limit)  # type: ignore[no-untyped-call]
        logits = similarity * scale.exp()
        return logits if self.bias is None else logits + self.bias


class _AtMost(torch.autograd.Function):
    """min(x, limit); beyond the limit only steps that lead back have a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x > limit)
        return x.clamp(max=limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (beyond,) = ctx.saved_tensors
        return gradient.masked_fill(beyond & (gradient < 0), 0.0), None


class ClrTarget(Target):
    """Contrastive learning of representations.

    ``labels`` are [B] int64: 1 where the two halves of a row belong together, -100 for a row that
    is left out, as a pair and as a wrong answer to others. The other rows of the micro-batch, of
    all workers while training, are the wrong answers; every worker reports the loss of its own
    rows, so that the sum over workers is the loss of the whole batch (CLIP, figure 3; SigLIP,
    algorithm 1). While training, all workers must therefore have labels in the same micro-batches.
    In evaluation each batch stands alone: workers may have different numbers of them.

    A row is correct if its own second half is the nearest to its first half.
    Parameters: ``first.*``, ``second.*`` (see ``StreamHead``), ``temperature.*``.
    """

    Config = ClrConfig

    def __init__(self, config: ClrConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width, other, size = (
            dimensions.hidden_size,
            dimensions.of_second.hidden_size,
            config.projection_size,
        )
        self.sigmoid = config.loss == "sigmoid"
        self.first = StreamHead(config.first, width, size)
        self.second = StreamHead(config.of_second, other, size)
        self.temperature = Temperature(config)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of pairs, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def vectors(self, hidden: Streams, mask: Streams) -> Streams:
        """Return the unit vectors that are compared, [B, P] each, in fp32."""
        return Streams(
            self.first(hidden.first, mask.first), self.second(hidden.second, mask.second)
        )

    def forward(  # type: ignore[override]
        self, hidden: Streams, mask: Streams, labels: Tensor
    ) -> TargetOutput:
        """Return the loss summed over this worker's pairs of ``hidden`` [B, S, D], [B, T, E].

        Softmax: mean of the cross entropies in both directions. Sigmoid: binary cross entropy of a
        first half with all second halves, summed.
        """
        known = labels != IGNORED_LABEL
        first, second = (vectors[known] for vectors in self.vectors(hidden, mask))
        gathering = self.training and torch.is_grad_enabled()
        others, start = gather_rows(second) if gathering else (second, 0)
        with torch.autocast(first.device.type, enabled=False):
            logits = self.temperature(first @ others.T)
            own = torch.arange(start, start + len(first), device=first.device)
            if self.sigmoid:
                loss = _sigmoid_loss(logits, own)
            else:
                all_first = gather_rows(first)[0] if gathering else first
                back = self.temperature(second @ all_first.T)
                loss = (_softmax_loss(logits, own) + _softmax_loss(back, own)) / 2
        correct = (logits.detach().argmax(-1) == own).sum() if len(first) else known.sum()
        return TargetOutput(loss, known.sum(), correct)

    def predict(  # type: ignore[override]
        self, hidden: Streams, mask: Streams
    ) -> Tensor:
        """Return the logits of each first half with each second half, [B, B]."""
        first, second = self.vectors(hidden, mask)
        with torch.autocast(first.device.type, enabled=False):
            logits: Tensor = self.temperature(first @ second.T)
        return logits


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


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all workers, and the index of this worker's first row among them.

    Collective where a process group exists: all workers must call it, forward and backward. The
    gradient of a row is the sum of the gradients of all workers' losses.

    Args:
        x: [B, D]; B may differ between workers.

    Returns:
        [N, D] in the order of the ranks.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x, 0
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=x.device)
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    rows: Tensor = _Gather.apply(x, sizes)  # type: ignore[no-untyped-call]
    return rows, sum(sizes[: dist.get_rank()])


def _softmax_loss(logits: Tensor, own: Tensor) -> Tensor:
    return F.cross_entropy(logits, own, reduction="sum")


def _sigmoid_loss(logits: Tensor, own: Tensor) -> Tensor:
    """Return the loss of logits [B, N] whose right answers are ``own`` [B]."""
    truth = torch.zeros_like(logits).scatter_(1, own[:, None], 1.0)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")


class _Gather(torch.autograd.Function):
    """All-gather of rows; its transpose is an all-reduce of their gradients, cut to our own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:  # type: ignore[override]
        ctx.sizes = sizes
        # all_gather takes tensors of one shape only; the padding is cut off again below.
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.contiguous().clone()  # autograd may still use the original
        dist.all_reduce(total)
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return total[start : start + ctx.sizes[rank]], None
