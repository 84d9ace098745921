"""Metrics of steps and evaluations: sums on the device, read by the host as seldom as possible.

Reading one number from a GPU waits for everything that was queued before it. A step therefore
leaves its metrics on the device as :class:`StepMetrics`; the loop reads those of a whole logging
interval at once (:func:`interval_means`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from orchestrator.data.prefetch import Ahead
from orchestrator.errors import InputError
from orchestrator.training.events import Metrics
from orchestrator.training.objective import ExtraLoss, Reduce
from orchestrator.training.watchdog import beat

Value = TypeVar("Value", float, Tensor)

SKIPPED = "skipped"
OVERFLOW = "overflow"
"""1 for a step not taken because the loss scale of fp16 was too high: no fault of the run."""


class StepMetrics(Mapping[str, float]):
    """Metrics of one step by name; a value on the device stays there until it is read.

    Args:
        *parts: Numbers and 0-dim fp64 tensors by name; later ones replace earlier ones.
    """

    __slots__ = ("_values",)

    def __init__(self, *parts: Mapping[str, float] | Mapping[str, Tensor]) -> None:
        self._values: dict[str, float | Tensor] = {}
        for part in parts:
            self._values |= part._values if isinstance(part, StepMetrics) else part

    def __getitem__(self, name: str) -> float:
        return float(self._values[name])

    def __contains__(self, name: object) -> bool:
        return name in self._values  # the one of `Mapping` reads the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def is_read(self, name: str) -> bool:
        """Return whether reading a value, or that there is none, waits for nothing."""
        return not isinstance(self._values.get(name), Tensor)

    def unread(self, name: str) -> Tensor:
        """Return one value as a 0-dim fp64 tensor, without a transfer."""
        return torch.as_tensor(self._values[name], dtype=torch.float64)


def read(steps: Sequence[StepMetrics]) -> None:
    """Bring the metrics of some steps to the host, in one transfer."""
    unread = [v for step in steps for v in step._values.values() if isinstance(v, Tensor)]
    numbers = iter(torch.stack(unread).tolist() if unread else ())
    for step in steps:
        for name, value in step._values.items():
            if isinstance(value, Tensor):
                step._values[name] = next(numbers)


def interval_means(interval: Sequence[StepMetrics]) -> Metrics:
    """Read the metrics of some steps in one transfer and return the mean of each.

    The mean is over the steps that have a finite value; counts and skipped steps are summed, and
    overflows, if there were any.
    """
    read(interval)
    found: dict[str, list[float]] = {}
    for step in interval:
        for name in step:
            if math.isfinite(number := step[name]):
                found.setdefault(name, []).append(number)
    summed = (SKIPPED, OVERFLOW, "count.")
    return {
        name: sum(numbers) if name.startswith(summed) else sum(numbers) / len(numbers)
        for name, numbers in found.items()
        if name != OVERFLOW or any(numbers)
    }


@dataclass(slots=True)
class MetricSums:
    """Adds losses, counts and correct answers of a model's outputs; exact over ranks.

    Attributes:
        targets: The model's targets, in the same order on every rank.
        target_weights: Weight of each target in ``loss``; 1 where not given.
        extra: Additional terms, the same on every rank; they have no accuracy.
        device: Where outputs are, and where they are added.
    """

    targets: tuple[str, ...]
    target_weights: Mapping[str, float] = field(default_factory=dict)
    extra: Sequence[ExtraLoss] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _weights: dict[str, float] = field(init=False)
    _sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._weights = {name: self.target_weights.get(name, 1.0) for name in self.targets}
        self._weights |= {each.name: each.weight for each in self.extra}
        shape = (3, len(self._weights))
        self._sums = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Add one micro-batch's ``loss.<t>``, ``count.<t>`` and ``correct.<t>``; no transfer."""
        for row, key in enumerate(("loss", "count", "correct")):
            for column, name in enumerate(self._weights):
                if (value := outputs.get(f"{key}.{name}")) is not None:
                    self._sums[row, column] += value.detach().to(self._sums)

    def reduce(self, sum_over_ranks: Reduce) -> Metrics:
        """Sum over ranks and divide; collective.

        Returns:
            ``loss``, and ``loss.<t>``, ``accuracy.<t>``, ``count.<t>`` of each target with labels;
            ``loss.<name>`` and ``count.<name>`` of each extra term. Empty when no rank saw any.
        """
        rows = sum_over_ranks(self._sums).tolist()
        counted = {name for name, count in zip(self._weights, rows[1], strict=True) if count > 0}
        return self._divided(rows, counted)

    def unread(self, sum_over_ranks: Reduce, counted: Set[str]) -> StepMetrics:
        """Do the same without a transfer; collective.

        Args:
            sum_over_ranks: The engine's data-parallel sum.
            counted: Losses that have a term on some rank: the keys of ``Window.counts``.
        """
        return StepMetrics(
            self._divided([list(row) for row in sum_over_ranks(self._sums)], counted)
        )

    def _divided(self, rows: Sequence[Sequence[Value]], counted: Set[str]) -> dict[str, Value]:
        shares: list[Value] = []
        metrics: dict[str, Value] = {}
        for (name, weight), loss, count, correct in zip(self._weights.items(), *rows, strict=True):
            if name in counted:
                shares.append(weight * loss / count)
                metrics[f"loss.{name}"] = loss / count
                if name in self.targets:
                    metrics[f"accuracy.{name}"] = correct / count
                metrics[f"count.{name}"] = count
        return {"loss": sum(shares[1:], shares[0]), **metrics} if shares else {}


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
    with Ahead(iter(batches)) as iterator:
        _add_all(forward, iterator, sums, sum_over_ranks, lockstep=lockstep)
    return sums.reduce(sum_over_ranks)


def _add_all(
    forward: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    iterator: Iterator[dict[str, Tensor]],
    sums: MetricSums,
    sum_over_ranks: Reduce,
    *,
    lockstep: bool,
) -> None:
    batch = last = next(iterator, None)
    ready, ranks = _ranks_with(batch, sum_over_ranks)
    if ready == 0 or (lockstep and ready < ranks):
        raise InputError(
            f"the evaluation set gives batches to {ready} of {ranks} workers. "
            "Use a larger validation set, a smaller evaluation batch or fewer workers"
        )
    while batch is not None or (lockstep and ready):
        beat()
        if batch is not None:
            sums.add(forward(batch))
            last, batch = batch, next(iterator, None)
        elif last is not None:
            forward(last)
        if lockstep:
            ready, _ = _ranks_with(batch, sum_over_ranks)


def _ranks_with(batch: object | None, sum_over_ranks: Reduce) -> tuple[int, int]:
    """Return the number of ranks that have a batch, and the number of ranks; collective."""
    both = torch.tensor([float(batch is not None), 1.0], dtype=torch.float64)
    ready, ranks = sum_over_ranks(both).tolist()
    return int(ready), int(ranks)
