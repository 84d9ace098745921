"""The search of one job: measure prices, let the allocator propose plans, measure, deploy one.

Every finished measurement is in the run's journal, so that a run started again measures only what
is missing. Time is measured by one task at a time, while nothing else of this job runs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from orchestrator.config import StrictModel
from orchestrator.errors import StageError
from orchestrator.quantization import worker
from orchestrator.quantization.allocator import (
    Point,
    candidates,
    error_plans,
    latency_plans,
    options,
    pareto,
    ranked,
    surrogate_front,
)
from orchestrator.quantization.artifact import (
    Choice,
    Prices,
    no_plan,
    points_table,
    write_model_file,
)
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.inputs import Prepared, QuantizeInputs
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.plans import Plan, named_plans
from orchestrator.quantization.results import (
    Divergence,
    Latency,
    MeasuredArtifact,
    PlanFigures,
)
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.training.compression import Pool
from orchestrator.zoo.gate import is_within

CUT_PLANS: Final = 3
"""Plans of the measured front, fastest first, that are tried with each shorter limit."""
logger = logging.getLogger(__name__)


class Search:
    """The way of one job from the float package to the plan that is deployed.

    Args:
        config: The job.
        prepared: Package, texts and back end.
        folder: The run's folder; holds the journal and the model file.
        pool: Runs the measurements.
    """

    def __init__(
        self, config: QuantizeConfig, prepared: Prepared, folder: RunFolder, pool: Pool
    ) -> None:
        self.config = config
        self.units = prepared.subject.units
        self.folder = folder
        self.pool = pool
        self.source = prepared.inputs.calibrated(self._ranges(prepared.inputs)).source
        self.inputs = pool.put(prepared.inputs.calibrated(self.source.ranges))
        self.points: list[Point] = []

    def run(self) -> Choice:
        """Return the first plan in the allocator's order whose written file keeps the goal.

        Raises:
            StageError: If no measured plan does.
        """
        for choice in self.choices():
            broken = broken_bounds(choice.measured, self.config.goal)
            if not broken:
                return choice
            logger.warning("plan %s is not taken: %s", choice.point.name, "; ".join(broken))
        raise StageError(no_plan(self.config.goal, self.points))

    def choices(self) -> Iterator[Choice]:
        """Measure plans, and yield those that reach the goal, each with its measured file.

        They come in the allocator's order; a file is there until the next one is asked for.
        """
        reference = self.pool.put(self.pool.call(worker.float_outputs, self.inputs))
        prices = Prices(
            errors=self._errors(reference),
            roles=self._latencies("roles", latency_plans(self.units, self.config.kinds)),
        )
        choices = options(self.units, self.config.kinds, prices.errors, prices.roles)
        front = surrogate_front(self.units, choices)
        baselines = named_plans(self.units, self.config.kinds)
        points = self._points(candidates(front, baselines, self.config.mixed_plans), reference)
        self.points = points + self._cut(points, reference)
        logger.info("measured plans\n%s", points_table(self.points))
        for point in ranked(self.points, self.config.goal):
            yield Choice(point, self.points, prices, self._measure_file(point), self.artifact)

    @property
    def artifact(self) -> Path:
        """Folder with the model file that was measured."""
        return self.folder.path / "artefact"

    def _ranges(self, inputs: QuantizeInputs) -> dict[str, Range]:
        """Return the input range of every unit, measured once."""
        stored = self.folder.done("calibration")
        if stored is None:
            found = self.pool.call(worker.calibrate, inputs)
            stored = {unit: list(bounds) for unit, bounds in found.items()}
            self.folder.mark("calibration", stored)
        return {unit: (bounds[0], bounds[1]) for unit, bounds in stored.items()}

    def _errors(self, reference: worker.References) -> dict[str, Divergence]:
        """Measure every unit alone in every kind; one task per unit."""
        plans = error_plans(self.units, self.config.kinds)
        names = {
            unit.name: [n for n in plans if plans[n].integer.keys() == {unit.name}]
            for unit in self.units
        }
        errors: dict[str, Divergence] = {}
        missing: dict[str, Sequence[Any]] = {}
        for unit, group in names.items():
            stored = self.folder.done(f"error-{unit}")
            if stored is None:
                missing[unit] = (self.inputs, reference, [plans[name] for name in group])
            else:
                errors |= {name: Divergence.model_validate(stored[name]) for name in stored}
        calls = self.pool.map(
            worker.measure_errors, missing, title="quantize: error of each unit", unit="unit"
        )
        for unit, found in calls:
            measured = dict(zip(names[unit], found, strict=True))
            self.folder.mark(f"error-{unit}", _dump(measured))
            errors |= measured
        return errors

    def _latencies(
        self, name: str, plans: Mapping[str, Plan], lengths: Mapping[str, int] | None = None
    ) -> dict[str, Latency]:
        """Time plans in one interleaved run."""
        timed = repr([plan.digest for plan in plans.values()]) + (repr(lengths) if lengths else "")
        step = f"latency-{name}-{sha256_bytes(timed.encode())[:12]}"
        stored = self.folder.done(step)
        if stored is None:
            found = self.pool.call(worker.measure_latencies, self.inputs, dict(plans), lengths)
            self.folder.mark(step, _dump(found))
            return found
        return {plan: Latency.model_validate(figures) for plan, figures in stored.items()}

    def _cut(self, points: Sequence[Point], reference: worker.References) -> list[Point]:
        """Measure the fastest plans that may be deployed with each shorter limit."""
        allowed = [p for p in points if p.plan.integer or self.config.goal.allow_float]
        plans, lengths = {}, {}
        for length in self.config.lengths:
            for point in pareto(allowed)[:CUT_PLANS]:
                name = f"{point.name}/{length}"
                plans[name], lengths[name] = point.plan, length
        return self._points(plans, reference, lengths) if plans else []

    def _points(
        self,
        plans: Mapping[str, Plan],
        reference: worker.References,
        lengths: Mapping[str, int] | None = None,
    ) -> list[Point]:
        """Measure accuracy, distance and time of the proposed plans."""
        lengths = lengths or {}
        steps = {
            name: f"point-{plan.digest}" + (f"-{lengths[name]}" if name in lengths else "")
            for name, plan in plans.items()
        }
        found: dict[str, PlanFigures] = {}
        missing: dict[str, Sequence[Any]] = {}
        for name, plan in plans.items():
            stored = self.folder.done(steps[name])
            if stored is None:
                missing[name] = (self.inputs, reference, plan, lengths.get(name))
            else:
                found[name] = PlanFigures.model_validate(stored)
        calls = self.pool.map(
            worker.measure_plan, missing, title="quantize: accuracy of each plan", unit="plan"
        )
        for name, figures in calls:
            self.folder.mark(steps[name], figures.model_dump(mode="json"))
            found[name] = figures
        latencies = self._latencies("plans", plans, lengths)
        return [
            Point(
                name,
                plan,
                found[name].paired,
                found[name].divergence,
                latencies[name],
                lengths.get(name),
            )
            for name, plan in plans.items()
        ]

    def _measure_file(self, point: Point) -> MeasuredArtifact:
        """Write the model of a plan and measure the written file."""
        model = write_model_file(self.artifact, self.source, point.plan)
        return self.pool.call(worker.measure_artifact, self.inputs, model, point.plan, point.length)


def _dump(figures: Mapping[str, StrictModel]) -> dict[str, JsonValue]:
    return {name: value.model_dump(mode="json") for name, value in figures.items()}


def broken_bounds(measured: MeasuredArtifact, goal: GoalConfig) -> list[str]:
    """Return the bounds that the written file breaks: accuracy on both splits, and time."""
    broken = []
    if goal.max_accuracy_drop is not None:
        splits = {"validation": measured.accuracy.validation, "test": measured.accuracy.test}
        broken += [
            f"accuracy drops by {figures.drop:.4f} on {split} rows, "
            f"{goal.max_accuracy_drop:g} is allowed"
            for split, figures in splits.items()
            if not is_within(figures.drop, goal.max_accuracy_drop, figures.reference)
        ]
    time = measured.latency.int8.cpu_ms
    if goal.max_latency_ms is not None and time > goal.max_latency_ms:
        broken.append(f"a call takes {time:.3f} ms, {goal.max_latency_ms:g} is allowed")
    return broken
