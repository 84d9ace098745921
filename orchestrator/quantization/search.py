"""The search of one job: measure prices, let the method propose plans, measure, deploy one.

Validation rows decide. Test rows are read once, by the written file of the one plan that was
chosen; what they say confirms it or ends the job, and never leads to another plan.

Every finished measurement is in the run's journal, so that a run started again measures only what
is missing, and does not ask the test rows again. Time is measured by one task at a time, while
nothing else of this job runs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from orchestrator.config import StrictModel
from orchestrator.quantization import flips, worker
from orchestrator.quantization.allocator import (
    Predicted,
    by_size,
    latency_plans,
    options,
    predicted,
    saved_bytes,
    shrunk_times,
    surrogate_front,
)
from orchestrator.quantization.artifact import Choice, Prices, write_model_file
from orchestrator.quantization.checks import stored_plans
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.describing import no_plan, points_table
from orchestrator.quantization.goals import (
    Missed,
    NearMiss,
    NoPlanError,
    missed_cost,
    missed_quality,
    nearest_of,
)
from orchestrator.quantization.inputs import Prepared
from orchestrator.quantization.kinds import TableKind
from orchestrator.quantization.measured_results import PlanFigures
from orchestrator.quantization.measuring import Measurements
from orchestrator.quantization.methods import exhaustive, front, samp
from orchestrator.quantization.methods.space import Space
from orchestrator.quantization.plans import Plan, named_plans
from orchestrator.quantization.ranking import (
    Point,
    misses,
    near_miss,
    near_misses,
    pareto,
    ranked,
)
from orchestrator.quantization.results import MeasuredArtifact
from orchestrator.storage import RunFolder
from orchestrator.training.compression import Pool
from orchestrator.zoo import Zoo

CUT_PLANS: Final = 3
"""Plans of the measured front, fastest first, that are tried with each shorter limit."""
METHODS: Final = {"front": front.search, "samp": samp.search, "exhaustive": exhaustive.search}
logger = logging.getLogger(__name__)


class Confirmation(StrictModel):
    """The one question to the test rows, as the journal keeps it."""

    digest: str
    """Short hash of the plan that was asked."""
    length: int | None
    """Tokens at which it cuts texts."""
    figures: PlanFigures
    """Answer of the test rows."""


class Search:
    """The way of one job from the float package to the plan that is deployed.

    Args:
        config: The job.
        prepared: Package, rows and back end.
        folder: The run's folder; holds the journal and the model file.
        pool: Runs the measurements.
    """

    def __init__(
        self, config: QuantizeConfig, prepared: Prepared, folder: RunFolder, pool: Pool
    ) -> None:
        self.config, self.goal = config, config.goal
        self.units, self.backend = prepared.subject.units, prepared.subject.backend
        self.folder, self.pool = folder, pool
        tables: TableKind = "int8" if config.tables == "int8" else "float"
        self.measurements = Measurements(prepared.inputs, folder, pool, tables)
        if config.equalize:
            self.measurements.equalize(self.units, config.allowed)
        if "equalize" in self.backend.settings:  # its plans are graphs
            self.measurements.fold(self.units, config.allowed)
        self.emitted_bytes = len(prepared.subject.emission.to_bytes())
        self.source = prepared.subject.source
        self.points: list[Point] = []

    def run(self) -> Choice:
        """Return the plan that validation rows choose and test rows confirm.

        Raises:
            NoPlanError: No measured plan keeps the goal on validation rows, or the test rows do not
                confirm the chosen one.
        """
        near: list[NearMiss] = []
        stored = self.folder.done("confirmation")
        asked = None if stored is None else Confirmation.model_validate(stored)
        for choice in self.choices(asked):
            missed = file_misses(choice, self.goal)
            if not missed:
                return self._confirmed(self.tested(choice))
            near.append(near_miss(choice.point, missed))
            words = "; ".join(each.in_words() for each in missed)
            logger.warning("plan %s is not taken: %s", choice.point.name, words)
        nearest = nearest_of([*near, *near_misses(self.points, self.goal)])
        raise NoPlanError(no_plan(self.goal, self.points, nearest), nearest)

    def choices(self, asked: Confirmation | None = None) -> Iterator[Choice]:
        """Measure plans, and yield those that reach the goal, each with its measured file.

        They come in the order of `ranking.ranked`; a file is there until the next one is asked for.
        Test rows are not read.

        Args:
            asked: What the run has asked the test rows before: its plan alone is yielded.
        """
        prices = self._prices()
        points = self.measurements.points(self._propose(prices))
        points += self._with_small_tables(points)
        self.points = points + self._cut(points)
        logger.info("measured plans\n%s", points_table(self.points))
        for point in self._ranked():
            if asked is None or (asked.digest, asked.length) == (point.plan.digest, point.length):
                measured = self._measure_file(point)
                source = self.measurements.source
                name = self.backend.model_file
                yield Choice(point, self.points, prices, measured, self.artifact, source, name)

    def tested(self, choice: Choice) -> Choice:
        """Return a choice with the figures of the test rows, which are asked once about a plan."""
        stored, point = self.folder.done("confirmation"), choice.point
        known = None if stored is None else Confirmation.model_validate(stored)
        if known is None or (known.digest, known.length) != (point.plan.digest, point.length):
            model = (self.artifact / self.backend.model_file).read_bytes()
            inputs = self.measurements.inputs
            found = self.pool.call(worker.measure_test, inputs, model, point.plan, point.length)
            known = Confirmation(digest=point.plan.digest, length=point.length, figures=found)
            self.folder.mark("confirmation", known.model_dump(mode="json"))
        return replace(choice, measured=choice.measured.model_copy(update={"test": known.figures}))

    @property
    def artifact(self) -> Path:
        """Folder with the model file that was measured."""
        return self.folder.path / "artefact"

    def _confirmed(self, choice: Choice) -> Choice:
        """Return a choice that test rows confirm.

        Raises:
            NoPlanError: They do not.
        """
        assert choice.measured.test is not None
        missed = missed_quality(choice.measured.test, self.goal, "test")
        if choice.point.is_float or not missed:
            return choice
        nearest = near_miss(choice.point, missed)
        words = "; ".join(each.in_words() for each in missed)
        raise NoPlanError(
            f"plan {choice.point.name} was chosen on validation rows, and the test rows do not "
            f"confirm it: {words}. Nothing is committed, and no other plan is tried on them. "
            "Relax the goal, or give more validation rows",
            nearest,
        )

    def _ranked(self) -> list[Point]:
        unbounded = not self.goal.bounds_quality and not self.goal.bounds_time
        if self.config.method == "samp" and unbounded and self.goal.max_bytes is None:
            return samp.recommended(self.points, self.goal)
        return ranked(self.points, self.goal)

    def _prices(self) -> Prices:
        """Measure what the knapsack needs; other methods need no prices."""
        if self.config.method != "front" or self.config.front_of is not None:
            return Prices({}, {}, {})
        kinds = self.config.allowed
        errors = self.measurements.errors(self.units, kinds)
        roles = self.measurements.latencies("roles", latency_plans(self.units, kinds))
        times = shrunk_times(self.units, kinds, roles)
        margins = self.pool.call(
            flips.float_margins, self.measurements.inputs, self.measurements.reference
        )
        priced = options(self.units, kinds, errors, times, self.goal)
        return Prices(errors, roles, priced, margins)

    def _propose(self, prices: Prices) -> dict[str, Plan]:
        """Let the method measure plans; return them by name."""
        proposed: dict[str, Plan] = {}

        def measure(plans: Mapping[str, Plan]) -> dict[str, bool]:
            proposed.update(plans)
            return self._keeps(plans)

        space = Space(
            units=self.units,
            kinds=self.config.allowed,
            goal=self.goal,
            options=prices.options,
            front=self._front(prices) if prices.options else [],
            baselines=named_plans(self.units, self.config.allowed),
            budget=self.config.most_mixed,
        )
        if self.config.front_of is None:
            METHODS[self.config.method](space, measure)
        else:
            measure(stored_plans(Zoo(self.config.run.zoo), self.config.front_of, self.units))
        return proposed

    def _keeps(self, plans: Mapping[str, Plan]) -> dict[str, bool]:
        """Return which plans keep the bounds of quality; without one, those of time."""
        goal = self.goal
        if goal.bounds_quality or not goal.bounds_time:
            figures = self.measurements.figures(plans)
            return {
                name: not plan.integer or not missed_quality(figures[name], goal, "validation")
                for name, plan in plans.items()
            }
        points = self.measurements.points(plans)
        return {point.name: not misses(point, goal) for point in points}

    def _front(self, prices: Prices) -> list[Predicted]:
        """Return the predicted front, of the plans whose file is small enough."""
        limit = self.goal.max_bytes
        if limit is None:
            return surrogate_front(self.units, prices.options)
        small = self._small(prices, limit)
        if not small and self.config.tables == "auto":
            self.measurements.tables = "int8"
            small = self._small(prices, limit)
        return small

    def _small(self, prices: Prices, limit: int) -> list[Predicted]:
        """Return the predicted front of the plans whose file has at most so many bytes."""
        found, whole = surrogate_front(self.units, prices.options), self.emitted_bytes
        if self.measurements.tables == "int8":
            whole = len(self.backend.emit(self.source, Plan({}, tables="int8")).to_bytes())
        small = [each for each in found if whole - saved_bytes(self.units, each.plan) <= limit]
        if small:
            return small
        lean = surrogate_front(self.units, by_size(self.units, prices.options))
        return [
            again
            for each in lean
            if whole - saved_bytes(self.units, each.plan) <= limit
            and (again := predicted(each.plan, prices.options)) is not None
        ]

    def _with_small_tables(self, points: Sequence[Point]) -> list[Point]:
        """Measure the plans that come first, but for their size, with an INT8 word table too."""
        both = self.config.tables == "auto" and self.config.front_of is None
        if not both or self.measurements.tables == "int8":
            return []
        wanted = ranked(points, self.goal.model_copy(update={"max_bytes": None}))
        chosen = [point for point in wanted if point.plan.integer][:CUT_PLANS]
        plans = {f"{each.name}+table": replace(each.plan, tables="int8") for each in chosen}
        return self.measurements.points(plans) if plans else []

    def _cut(self, points: Sequence[Point]) -> list[Point]:
        """Measure the fastest plans that may be deployed with each shorter limit."""
        allowed = [p for p in points if p.plan.integer or self.goal.allow_float]
        plans, lengths = {}, {}
        for length in self.config.lengths:
            for point in pareto(allowed)[:CUT_PLANS]:
                name = f"{point.name}/{length}"
                plans[name], lengths[name] = point.plan, length
        return self.measurements.points(plans, lengths) if plans else []

    def _measure_file(self, point: Point) -> MeasuredArtifact:
        """Write the model of a plan and measure the written file on validation rows."""
        measurements = self.measurements
        model = write_model_file(self.artifact, measurements.source, point.plan, self.backend)
        return self.pool.call(
            worker.measure_artifact,
            measurements.inputs,
            measurements.reference,
            model,
            point.plan,
            point.length,
        )


def file_misses(choice: Choice, goal: GoalConfig) -> list[Missed]:
    """Return the bounds that the written file does not keep on validation rows, time and size."""
    measured, point = choice.measured, choice.point
    quality = [] if point.is_float else missed_quality(measured.validation, goal, "validation")
    return quality + missed_cost(measured.latency.int8, measured.buckets, choice.bytes, goal)
