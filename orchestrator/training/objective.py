"""The objective all engines share: global label counts, loss scales, metric sums.

Every target reports the *sum* of its loss terms and their number. A step minimises

    L = sum_t weight_t * (sum of loss.t over the window) / (count.t over the window)

where the window is all micro-batches of all ranks. Averaging each micro-batch by itself would
weight a token of a short text more than one of a long text, and the result would depend on how a
batch was cut; with global counts 1 x 16, 4 x 4 and 2 ranks x 2 x 4 are the same step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError, NoLabelsError

Reduce = Callable[[Tensor], Tensor]


def target_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a model's targets in their fixed order, the same on every rank.

    Raises:
        InputError: The model has no ``targets``.
    """
    targets = getattr(model, "targets", None)
    if not isinstance(targets, nn.ModuleDict) or not len(targets):
        raise InputError(
            f"{type(model).__name__} has no targets to train. Add at least one to model.target"
        )
    return tuple(targets)


@dataclass(frozen=True, slots=True)
class Window:
    """What one accumulation window holds, over all ranks.

    Attributes:
        counts: Loss terms of each target with at least one.
        scales: What each target's loss *sum* is multiplied with: ``weight / count``.
    """

    counts: Mapping[str, int]
    scales: Mapping[str, float]

    @property
    def active(self) -> frozenset[str]:
        """Targets with at least one label; the heads of all others must not move."""
        return frozenset(self.counts)

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return one micro-batch's share of the objective, 0-dim, ready for backward.

        Shares of all micro-batches of all ranks add up to the objective. An engine whose
        reduction *averages* gradients over ranks multiplies this by its world size.
        """
        shares = [
            outputs[f"loss.{name}"].float() * scale
            for name, scale in self.scales.items()
            if f"loss.{name}" in outputs
        ]
        if not shares:
            # A micro-batch whose targets have no label anywhere in the window: keep its graph, so
            # that the collectives of its backward pass still happen on every rank.
            shares = [value * 0.0 for key, value in outputs.items() if key.startswith("loss.")]
        return sum(shares[1:], shares[0])


def window_scales(
    model: nn.Module,
    micro_batches: Sequence[Mapping[str, Tensor]],
    target_weights: Mapping[str, float] | None,
    sum_over_ranks: Reduce,
) -> Window:
    """Count the labels of a window on all ranks and derive each target's loss scale.

    Collective: one all-reduce of as many numbers as the model has targets.

    Args:
        model: Offers ``targets`` and ``count_labels(batch)``.
        micro_batches: This rank's part of the window.
        target_weights: Weight of each target in the objective; 1 where not given.
        sum_over_ranks: The engine's data-parallel sum.

    Raises:
        NoLabelsError: No rank has a label of any target.
    """
    names = target_names(model)
    count_labels = cast(Callable[[Mapping[str, Tensor]], dict[str, Tensor]], model.count_labels)
    local = torch.zeros(len(names), dtype=torch.float64)
    for batch in micro_batches:
        for name, count in count_labels(batch).items():
            local[names.index(name)] += int(count)
    totals = [int(value) for value in sum_over_ranks(local).tolist()]
    counts = {name: total for name, total in zip(names, totals, strict=True) if total > 0}
    if not counts:
        raise NoLabelsError(
            f"the batch has no label for any of the model's targets ({', '.join(names)}). "
            "Give at least one sample with labels.<target>"
        )
    weights = target_weights or {}
    return Window(counts, {name: weights.get(name, 1.0) / counts[name] for name in counts})


@dataclass(slots=True)
class MetricSums:
    """Adds losses, counts and correct answers of a model's outputs; exact over ranks.

    Attributes:
        names: The model's targets, in the same order on every rank.
        target_weights: Weight of each target in ``loss``; 1 where not given.
    """

    names: tuple[str, ...]
    target_weights: Mapping[str, float] = field(default_factory=dict)
    _sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._sums = torch.zeros(3, len(self.names), dtype=torch.float64)

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Add one micro-batch's ``loss.<t>``, ``count.<t>`` and ``correct.<t>``."""
        for row, key in enumerate(("loss", "count", "correct")):
            for column, name in enumerate(self.names):
                if (value := outputs.get(f"{key}.{name}")) is not None:
                    self._sums[row, column] += value.detach().double().cpu()

    def reduce(self, sum_over_ranks: Reduce) -> dict[str, float]:
        """Sum over ranks and divide; collective.

        Returns:
            ``loss`` and per target with labels ``loss.<t>``, ``accuracy.<t>``, ``count.<t>``;
            empty when no rank saw a label.
        """
        rows = sum_over_ranks(self._sums).tolist()
        metrics: dict[str, float] = {}
        total = 0.0
        for name, loss, count, correct in zip(self.names, *rows, strict=True):
            if count > 0:
                total += self.target_weights.get(name, 1.0) * loss / count
                metrics |= {
                    f"loss.{name}": loss / count,
                    f"accuracy.{name}": correct / count,
                    f"count.{name}": count,
                }
        return {"loss": total, **metrics} if metrics else {}


def evaluate_batches(
    forward: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    batches: Iterable[dict[str, Tensor]],
    sums: MetricSums,
    sum_over_ranks: Reduce,
    *,
    lockstep: bool = False,
) -> dict[str, float]:
    """Evaluate each rank's own batches and return exact global metrics.

    The caller sets eval mode and switches gradients off.

    Args:
        forward: Batch to the model's output dict, on the right device.
        batches: This rank's batches; ranks may have different numbers of them.
        sums: Where to add.
        sum_over_ranks: The engine's data-parallel sum.
        lockstep: The forward pass is itself collective (ZeRO-3, FSDP2): ranks that have run out
            repeat their last batch, uncounted, until all are done.

    Raises:
        InputError: No rank has a batch, or in lockstep one has none at all.
    """
    iterator = iter(batches)
    batch = last = next(iterator, None)
    ready, ranks = _ranks_with(batch, sum_over_ranks)
    if ready == 0 or (lockstep and ready < ranks):
        raise InputError(
            f"the evaluation set gives batches to {ready} of {ranks} workers. "
            "Use a larger validation set, a smaller evaluation batch or fewer workers"
        )
    while batch is not None or (lockstep and ready):
        if batch is not None:
            sums.add(forward(batch))
            last, batch = batch, next(iterator, None)
        elif last is not None:
            forward(last)
        if lockstep:
            ready, _ = _ranks_with(batch, sum_over_ranks)
    return sums.reduce(sum_over_ranks)


def _ranks_with(batch: object | None, sum_over_ranks: Reduce) -> tuple[int, int]:
    """How many ranks have a batch, and how many ranks there are; collective."""
    both = torch.tensor([float(batch is not None), 1.0], dtype=torch.float64)
    ready, ranks = sum_over_ranks(both).tolist()
    return int(ready), int(ranks)
