"""Figures of one trained model in INT8; plans of any origin measured in our engine."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.config import StrictModel
from orchestrator.inference.dispatch import random_batch
from orchestrator.quantization import worker
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.inputs import QuantizeInputs
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.measured_results import PlanFigures
from orchestrator.quantization.measures import median_interval
from orchestrator.quantization.measuring import Measurements
from orchestrator.quantization.plans import Plan, Unit
from orchestrator.quantization.results import Latency

PURE: Final = ("float", "fully_quant", "ffn_only")
DUEL_ROUNDS, DUEL_CALLS = 61, 4
FLOOR: Final = 0.01
"""Largest drop of the metric, by its one-sided 95 % bound on validation rows."""
ANYTHING: Final = GoalConfig(max_accuracy_drop=1.0, statistic="mean", allow_float=True)
"""A goal under which no measurement ends early."""


class Measured(StrictModel):
    """A plan with its figures: quality on validation rows, time of the common race."""

    name: str
    """Name within its method."""
    method: str
    """front, samp or nncf."""
    plan: dict[str, KindName]
    """Kind of every unit."""
    figures: PlanFigures
    """On validation rows, of the file that is timed."""
    latency: Latency
    """Ratio of CPU time to float in the same engine."""
    keeps: bool
    """Whether it keeps the bound on validation rows."""

    @property
    def drop(self) -> float:
        """Drop of the metric on validation rows."""
        assert self.figures.paired is not None
        return self.figures.paired.drop


class Outcome(StrictModel):
    """Outcome of one job."""

    method: str
    """Its method."""
    chosen: str
    """Name of its plan; empty: none keeps the bound on validation rows."""
    confirmed: bool
    """Whether test rows, asked once, confirm it."""
    test: PlanFigures | None
    """Figures of the test rows."""
    evaluations: int
    """INT8 plans whose accuracy was measured."""


class Figures(StrictModel):
    """Everything that was measured of one case."""

    case: str
    """Name of the case."""
    metric: str
    """The task's primary metric."""
    rows: dict[str, int]
    """Rows by split."""
    reference: float
    """Metric of the float model on validation rows."""
    jobs: dict[str, Outcome]
    """Outcome by method."""
    plans: tuple[Measured, ...]
    """All plans in our engine."""
    engines: dict[str, tuple[Measured, ...]]
    """Plans in other engines."""
    float_ms: dict[str, float]
    """CPU milliseconds of a float call by engine."""
    nncf_evaluations: dict[str, int]
    """Validations of NNCF by its bound."""
    duel: Latency | None = None
    """Time of the deployed plan over that of the best pure mode within the bound, in turns; null:
    they are the same plan, or were not timed so."""
    bare: dict[str, float] | None = None
    """Drop of each fully quantized plan without equalized norms; of planted outliers."""
    difference: float | None = None
    """Largest difference of a float logit by the planting, relative to the largest logit."""

    @property
    def best_pure(self) -> Measured:
        """The fastest of float, FFN-only and fully quantized that keeps the bound."""
        pure = (p for p in self.plans if p.method == "front" and p.name.startswith(PURE))
        return min((p for p in pure if p.keeps), key=lambda plan: plan.latency.ratio)

    def deployed(self, method: str = "front") -> Measured:
        """Return the plan that a job chose."""
        name = self.jobs[method].chosen
        return next(p for p in self.plans if p.method == method and p.name == name)


class Lab:
    """Measures plans of any origin in our engine.

    Attributes:
        known: Figures of plans that were measured before, by their short hash without norms.
        float_ms: CPU milliseconds of a float call.

    Args:
        measurements: Those of the case's default job.
        units: Units of the model.
    """

    def __init__(self, measurements: Measurements, units: Sequence[Unit]) -> None:
        self.measurements, self.units = measurements, units
        self.inputs: QuantizeInputs = replace(measurements.inputs, goal=ANYTHING)
        self.known: dict[str, PlanFigures] = {}
        self.float_ms = 0.0

    def completed(self, plan: Plan) -> Plan:
        """Return a plan with the norms that the case's job equalizes."""
        return replace(plan, equalized=self.measurements.equalized) if plan.integer else plan

    def quality(self, plan: Plan) -> PlanFigures:
        """Return the figures of a plan on all validation rows; measure them unless known."""
        bare = Plan(plan.kinds).digest
        if bare not in self.known:
            reference = self.measurements.reference
            self.known[bare] = worker.measure_plan(self.inputs, reference, plan)
        return self.known[bare]

    def race(self, plans: Mapping[str, Plan]) -> tuple[Measured, ...]:
        """Time plans in one interleaved run; plans that are equal are timed once.

        Args:
            plans: By ``<method> <name>``.
        """
        whole = {name: self.completed(plan) for name, plan in plans.items()}
        unique = {plan.digest: plan for plan in whole.values() if plan.integer}
        times = self.measurements.latencies("race", {"float": Plan({}), **unique})
        self.float_ms = times["float"].cpu_ms
        return tuple(
            self.measured(name, plan, self.quality(plan), times.get(plan.digest, times["float"]))
            for name, plan in whole.items()
        )

    def bare_drop(self, plan: Plan) -> float:
        """Return the drop of a plan without equalized norms."""
        found = worker.measure_plan(self.inputs, self.measurements.reference, plan).paired
        assert found is not None
        return found.drop

    def duel(self, ours: Plan, other: Plan) -> Latency:
        """Time two plans in turns; the ratio is that of ours to the other one.

        Each slice follows one of the other plan, so that both find the cache as the other left it.
        """
        batch = timed_batch(self.inputs)
        models = [worker.open_plan(self.inputs, self.completed(plan)) for plan in (ours, other)]
        times = np.empty((DUEL_ROUNDS, 2))
        for number in range(DUEL_ROUNDS + 1):  # the first one warms up
            for which in (0, 1) if number % 2 else (1, 0):
                began = time.thread_time()
                for _ in range(DUEL_CALLS):
                    models[which].predict(batch)
                times[number - 1, which] = (time.thread_time() - began) / DUEL_CALLS
        ratios = times[:, 0] / times[:, 1]
        middle = 1e3 * float(np.median(times[:, 0]))
        return Latency(
            cpu_ms=middle,
            wall_ms=middle,
            ratio=float(np.median(ratios)),
            spread=(float(ratios.min()), float(ratios.max())),
            interval=median_interval(ratios),
        )

    def measured(self, name: str, plan: Plan, figures: PlanFigures, time: Latency) -> Measured:
        """Return a plan with its figures."""
        method, _, short = name.partition(" ")
        paired = figures.paired
        assert paired is not None
        keeps = not plan.integer or (paired.bound is not None and paired.bound <= FLOOR)
        return Measured(
            name=short,
            method=method,
            plan=dict(plan.kinds),
            figures=figures,
            latency=time,
            keeps=keeps,
        )


def timed_batch(inputs: QuantizeInputs) -> dict[str, AnyArray]:
    """Return the batch that the job times, with random words, or an image."""
    part, timing = inputs.texts.calibration.parts[0], inputs.timing
    if part.items is None:
        return {name: each[:1] for name, each in part.batches[0].items()}
    vocabulary = inputs.source.model_config.vocab_size
    return dict(random_batch(timing.batch_size, timing.length, vocabulary))
