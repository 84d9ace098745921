"""Expected cost of a selection before it starts, phase by phase."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.config import TrialClusterSection
from orchestrator.config.tables import table
from orchestrator.errors import InputError
from orchestrator.selection.costs.clock import slot_price, slots_of, trials_that_fit
from orchestrator.selection.costs.config import BudgetConfig
from orchestrator.selection.costs.epoch_times import FORWARD_SHARE, EpochTimes, times_of_matrix
from orchestrator.selection.halving import rung_sizes
from orchestrator.selection.rungs import Rungs, whole
from orchestrator.selection.target_rows import RowCounts
from orchestrator.selection.trials.rates import extra_epochs

if TYPE_CHECKING:
    from orchestrator.selection.config import SelectConfig
    from orchestrator.selection.matrix.performance import PerformanceMatrix
    from orchestrator.selection.planning import SelectionPlan
    from orchestrator.training.config import FineTuneConfig

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Forecast:
    """The largest cost of each phase; what nobody has measured is unknown.

    Attributes:
        passes: Forward passes of proxies.
        share: Part of the training rows that a pass reads; None: rows have not been read.
        sizes: Models in each rung, at most.
        rungs: What is trained in each.
        times: Expected seconds.
        models: Candidates; the slowest ones count.
        slots: Trials that fit at once.
        price: Of one slot for one second; None without prices.
        currency: Of the price.
        rates: Learning rates that each model of the first rung tries.
    """

    passes: int
    share: float | None
    sizes: Sequence[int]
    rungs: Rungs
    times: EpochTimes
    models: Iterable[str]
    slots: float
    price: float | None
    currency: str
    rates: int = 0

    def lines(self, budget: BudgetConfig) -> list[str]:
        """A table of the phases with their sum, and the budget."""
        slowest = sorted(self.models, key=lambda m: -(self.times.of(m) or 0.0))
        rows: list[tuple[str, object, float | None, int | None, float | None]] = []
        per_epoch = self.rungs.steps_per_epoch
        if self.passes:
            # a proxy pass is part of an epoch without its backward half
            epoch = self.times.rung(slowest[: self.passes], self.slots)
            seconds: float | None = None
            if epoch is not None and self.share is not None:
                seconds = epoch * self.share * FORWARD_SHARE
            rows.append(("proxies", self.passes, 0, 0, seconds))
        if self.rates:
            extra = extra_epochs(self.rates, per_epoch, self.rungs.first_steps)
            size = self.sizes[0]
            steps = None if per_epoch is None else round(size * per_epoch * extra)
            seconds = self.times.rung(slowest[:size], self.slots, extra, self.rates)
            rows.append(("learning rates", size, 0, steps, seconds))
        rows += self._rungs(slowest)
        steps = None if any(r[3] is None for r in rows) else sum(r[3] or 0 for r in rows)
        total = None if any(r[4] is None for r in rows) else sum(r[4] or 0.0 for r in rows)
        parts = zip(self.sizes, self.rungs.shares(), strict=False)
        rows.append(("at most", "", math.fsum(n * part for n, part in parts), steps, total))
        shown = [
            (
                *row[:2],
                UNKNOWN if row[2] is None else whole(row[2]),
                UNKNOWN if row[3] is None else row[3],
                *self._time_and_money(row[4]),
            )
            for row in rows
        ]
        header = ("phase", "models", "epochs", "steps", "seconds", self.currency or "money")
        width = len(header) - (self.price is None)
        text = table([row[:width] for row in shown], header[:width], "<>>>>>"[:width])
        lines = [f"  {line}" for line in text.splitlines()]
        if per_epoch is None:
            lines.append("  steps: unknown until the rows are read")
        lines.append(f"  seconds on {self.slots:g} slots: {self._origin()}")
        if budget.unit is not None:
            lines.append(f"  budget: {budget.limit:g} {budget.unit}")
        return lines

    def _rungs(
        self, slowest: Sequence[str]
    ) -> Iterator[tuple[str, int, float | None, int | None, float | None]]:
        """Yield name, models, epochs, steps and seconds of each rung."""
        rungs = self.rungs
        for rung, size in enumerate(self.sizes, start=1):
            name, share = f"rung {rung}", rungs.share(rung)
            steps: int | None = None
            if rungs.first_steps is not None:
                name += f", to {rungs.name(rung)}"
            if rungs.steps_per_epoch is not None:
                steps = size * (rungs.steps_after(rung) - rungs.steps_after(rung - 1))
            elif rungs.first_steps is not None and rung <= 2:
                yield name, size, None, None, None
                continue
            seconds = self.times.rung(slowest[:size], self.slots, share)
            yield name, size, size * share, steps, seconds

    def _time_and_money(self, seconds: float | None) -> tuple[str, str]:
        if seconds is None:
            return UNKNOWN, UNKNOWN
        money = seconds * self.slots * (self.price or 0.0)
        return f"{seconds:.1f}", f"{money:.2f}"

    def _origin(self) -> str:
        if self.times.source:
            return f"by {self.times.source}"
        return "unknown until the first rung; the matrix has no times"


def expected_slots(cluster: TrialClusterSection) -> float:
    """Trials that fit at once, as far as that is known before a cluster is connected."""
    if _elsewhere(cluster) or cluster.gpus_per_worker:
        return float(cluster.workers)
    return slots_of(cluster, float(os.cpu_count() or 1), 0.0)


def trial_lines(cluster: TrialClusterSection) -> list[str]:
    """Line of the plan about trials of several workers; none for trials of one.

    Raises:
        InputError: They can never fit on this machine.
    """
    workers = cluster.workers_per_trial
    if workers == 1:
        return []
    cpus = len(os.sched_getaffinity(0))
    one_gpu_each = cluster.model_copy(update={"gpus_per_worker": 0.0})
    if not _elsewhere(cluster) and trials_that_fit(one_gpu_each, cpus, 0.0) < cluster.workers:
        raise InputError(
            f"cluster.workers_per_trial: {cluster.workers} × {workers} × "
            f"{cluster.cpus_per_worker:g} CPU asked, {cpus} CPUs on this machine. Lower it or "
            "cluster.workers, or set cluster.address to a larger cluster."
        )
    fits = "at least " if _elsewhere(cluster) or cluster.gpus_per_worker else ""
    return [f"  trials: {workers} workers each, {fits}{expected_slots(cluster):g} at once"]


def _elsewhere(cluster: TrialClusterSection) -> bool:
    """Return whether a cluster is connected to, whose size is not known yet."""
    return cluster.address is not None or "RAY_ADDRESS" in os.environ


def forecast_lines(
    config: "SelectConfig",
    matrix: "PerformanceMatrix",
    models: Iterable[str],
    *,
    passes: int,
    sizes: Sequence[int],
    rows: RowCounts | None,
    slots: float | None = None,
) -> list[str]:
    """Lines of the plan with its expected cost.

    Args:
        config: The job.
        matrix: With or without times of its epochs.
        models: Candidates.
        passes: Forward passes of proxies.
        sizes: Models in each rung, at most.
        rows: Of the target; None: not read.
        slots: Of the connected cluster; None: it is not connected yet.
    """
    cap, rungs = (
        config.recall.max_proxy_rows,
        planned_rungs(config, None if rows is None else rows.train),
    )
    forecast = Forecast(
        passes=passes,
        share=None if rows is None else min(1.0, cap / rows.train),
        sizes=sizes,
        rungs=rungs,
        times=planned_times(config, matrix, models, rows),
        models=tuple(models),
        slots=expected_slots(config.cluster) if slots is None else slots,
        price=slot_price(config.cluster, config.prices),
        currency=config.prices.currency,
        rates=len(config.halving.learning_rates or ()),
    )
    return forecast.lines(config.budget)


def plan_lines(config: "SelectConfig", plan: "SelectionPlan", slots: float) -> list[str]:
    """Lines of the plan of a run that is connected to its cluster."""
    return forecast_lines(
        config,
        plan.matrix,
        plan.packages,
        passes=len(plan.to_score),
        sizes=rung_sizes(plan.pool, plan.rungs.count, plan.judge, config.finish_top),
        rows=RowCounts.of(plan.task),
        slots=slots,
    )


def planned_times(
    config: "SelectConfig",
    matrix: "PerformanceMatrix",
    models: Iterable[str],
    rows: RowCounts | None,
) -> EpochTimes:
    """Return the expected seconds of epochs, by the matrix; arguments as of `forecast_lines`."""
    if rows is None:
        return times_of_matrix(matrix, models, None)
    return times_of_matrix(
        matrix,
        models,
        rows.train,
        steps_per_epoch=steps_of(config, rows.train),
        evaluation=rows.evaluation(config.fine_tune),
    )


def planned_rungs(config: "SelectConfig", rows: int | None) -> Rungs:
    """Return what is trained in each rung.

    Args:
        config: The job.
        rows: Training rows of the target; None: not read.

    Raises:
        InputError: The first rung in steps is not shorter than an epoch.
    """
    steps = None if rows is None else steps_of(config, rows)
    rungs = Rungs(config.fine_tune.epochs, config.halving.first_rung_steps, steps)
    rungs.require_shorter()
    return rungs


def steps_of(config: "SelectConfig", rows: int) -> int:
    """Optimizer steps of one epoch of any candidate, of ``rows`` training rows."""
    return steps_per_epoch(rows, config.fine_tune, config.cluster.workers_per_trial)


def steps_per_epoch(rows: int, fine_tune: "FineTuneConfig", workers: int = 1) -> int:
    """Optimizer steps in which ``rows`` training rows are read once, as the fine-tuner counts."""
    used = min(rows, fine_tune.max_train_rows or rows)
    share = max(1, min(fine_tune.global_batch_size, used) // workers)
    return -(-used // (share * workers))
