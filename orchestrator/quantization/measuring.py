"""Measurements of one job: each is made once, by a task of the pool, and kept in the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import JsonValue

from orchestrator.config import StrictModel
from orchestrator.quantization import worker
from orchestrator.quantization.allocator import SEPARATOR, error_plans
from orchestrator.quantization.emission.equalization import equalizable
from orchestrator.quantization.inputs import QuantizeInputs
from orchestrator.quantization.kinds import KindName, Range, TableKind
from orchestrator.quantization.measured_results import Divergence, PlanFigures
from orchestrator.quantization.plans import Plan, Unit, fully_quant
from orchestrator.quantization.ranking import Point
from orchestrator.quantization.results import Latency
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.training.compression import Pool


class Measurements:
    """Measures prices and plans.

    Args:
        inputs: The float model and the rows, not calibrated.
        folder: The run's folder; holds the journal.
        pool: Runs the measurements.
        tables: Storage of the word table in every plan with INT8 units.
    """

    def __init__(
        self,
        inputs: QuantizeInputs,
        folder: RunFolder,
        pool: Pool,
        tables: TableKind = "float",
    ) -> None:
        self.folder, self.pool, self.tables = folder, pool, tables
        calibrated = inputs.calibrated(self._ranges(inputs))
        self._calibrated, self.equalized = calibrated, tuple[str, ...]()
        self.source, self.shapes = calibrated.source, calibrated.timing.buckets
        self.inputs = pool.put(calibrated)
        self.reference = pool.put(pool.call(worker.float_outputs, self.inputs))

    def equalize(self, units: Sequence[Unit], kinds: Sequence[KindName]) -> None:
        """Equalize norms in all plans, if the fully quantized model comes nearer to float by it."""
        norms = tuple(each.norm for each in equalizable(self.source.model_config))
        if not norms or "equalize" not in self._calibrated.backend.settings:
            return
        channels = self.pool.call(worker.measure_channels, self.inputs)
        source = replace(self.source, channels=channels)
        inputs = replace(self._calibrated, source=source)
        stored = self.folder.done("equalization")
        if stored is None:
            kind = next((kind for kind in kinds if kind.startswith("row")), kinds[0])
            plain = replace(fully_quant(units, kind), tables=self.tables)
            plans = [plain, replace(plain, equalized=norms)]
            before, after = self.pool.call(worker.measure_errors, inputs, self.reference, plans)
            stored = {"norms": list(norms) if after.error < before.error else []}
            self.folder.mark("equalization", stored)
        if stored["norms"]:
            self.equalized, self.source = tuple(stored["norms"]), source
            self._calibrated = inputs
            self.inputs = self.pool.put(inputs)

    def fold(self, units: Sequence[Unit], kinds: Sequence[KindName]) -> None:
        """Equalize and quantize once what the graphs of all plans share."""
        if not self._calibrated.backend.observes:
            return  # it has its own weights
        wanted = {unit.name: unit.options(kinds) for unit in units}
        folded = self.pool.call(worker.fold, self.inputs, wanted, self.equalized)
        source = replace(self.source, folded=folded)
        self.inputs = self.pool.put(replace(self._calibrated, source=source))

    def _completed(self, plans: Mapping[str, Plan]) -> dict[str, Plan]:
        """Return plans with what all of them share: norms and table; float stays as it is."""
        return {
            name: replace(
                plan,
                equalized=self.equalized,
                tables=self.tables if plan.tables == "float" else plan.tables,
            )
            if plan.integer
            else plan
            for name, plan in plans.items()
        }

    def errors(self, units: Sequence[Unit], kinds: Sequence[KindName]) -> dict[str, Divergence]:
        """Measure what every unit adds in every kind, beside a float table.

        Units have an estimate from one pass and its gradients (``prices.sensitivity``); those that
        have none are measured alone in whole sessions, one task per unit.
        """
        plans = {
            name: replace(plan, tables="float")  # the error of the table is not that of a unit
            for name, plan in self._completed(error_plans(units, kinds)).items()
        }
        names = {
            unit.name: [n for n in plans if plans[n].integer.keys() == {unit.name}]
            for unit in units
        }
        errors: dict[str, Divergence] = {}
        missing: dict[str, Sequence[Any]] = {}
        for unit, own in names.items():
            stored = self.folder.done(f"error-{unit}")
            if stored is None:
                missing[unit] = (self.inputs, self.reference, [plans[name] for name in own])
            else:
                errors |= {name: Divergence.model_validate(stored[name]) for name in stored}
        for unit, found in self._estimates([u for u in units if u.name in missing], kinds).items():
            errors |= self._mark_errors(unit, found)
            del missing[unit]
        calls = self.pool.map(
            worker.measure_errors, missing, title="quantize: error of each unit", unit="unit"
        )
        for unit, measured in calls:
            errors |= self._mark_errors(unit, dict(zip(names[unit], measured, strict=True)))
        return errors

    def _estimates(
        self, units: Sequence[Unit], kinds: Sequence[KindName]
    ) -> dict[str, dict[str, Divergence]]:
        if not units or not self._calibrated.backend.observes:
            return {}
        from orchestrator.quantization.prices.sensitivity import measure_sensitivities

        wanted = {unit.name: unit.options(kinds) for unit in units}
        found = self.pool.call(measure_sensitivities, self.inputs, wanted, self.equalized)
        return {
            unit: {f"{unit}{SEPARATOR}{kind}": error for kind, error in by_kind.items()}
            for unit, by_kind in found.items()
        }

    def _mark_errors(self, unit: str, found: dict[str, Divergence]) -> dict[str, Divergence]:
        self.folder.mark(f"error-{unit}", _dump(found))
        return found

    def figures(
        self, plans: Mapping[str, Plan], lengths: Mapping[str, int] | None = None
    ) -> dict[str, PlanFigures]:
        """Measure plans on the validation rows; one task per plan.

        Args:
            plans: By name.
            lengths: Limit in tokens of the plans that cut texts.
        """
        plans, lengths = self._completed(plans), lengths or {}
        steps = {
            name: f"point-{plan.digest}" + (f"-{lengths[name]}" if name in lengths else "")
            for name, plan in plans.items()
        }
        found: dict[str, PlanFigures] = {}
        missing: dict[str, Sequence[Any]] = {}
        for name, plan in plans.items():
            stored = self.folder.done(steps[name])
            if stored is None:
                missing[name] = (self.inputs, self.reference, plan, lengths.get(name))
            else:
                found[name] = PlanFigures.model_validate(stored)
        calls = self.pool.map(
            worker.measure_plan, missing, title="quantize: accuracy of each plan", unit="plan"
        )
        for name, figures in calls:
            self.folder.mark(steps[name], figures.model_dump(mode="json"))
            found[name] = figures
        return {name: found[name] for name in plans}

    def latencies(
        self,
        name: str,
        plans: Mapping[str, Plan],
        lengths: Mapping[str, int] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> dict[str, Latency]:
        """Time plans in one interleaved run.

        Args:
            name: Of the group, in the journal.
            plans: By name.
            lengths: Limit in tokens of the plans that cut texts.
            shape: Rows and tokens of the timed batch; None: those of the job.
        """
        plans = self._completed(plans)
        timed = repr([plan.digest for plan in plans.values()])
        timed += "".join(repr(part) for part in (lengths, shape) if part)
        step = f"latency-{name}-{sha256_bytes(timed.encode())[:12]}"
        stored = self.folder.done(step)
        if stored is None:
            found = self.pool.call(
                worker.measure_latencies, self.inputs, dict(plans), lengths, shape
            )
            self.folder.mark(step, _dump(found))
            return found
        return {plan: Latency.model_validate(figures) for plan, figures in stored.items()}

    def points(
        self, plans: Mapping[str, Plan], lengths: Mapping[str, int] | None = None
    ) -> list[Point]:
        """Measure quality and time of plans.

        Args:
            plans: By name.
            lengths: Limit in tokens of the plans that cut texts.
        """
        plans = self._completed(plans)
        figures = self.figures(plans, lengths)
        times = self.latencies("plans", plans, lengths)
        shapes = {
            name: self.latencies(f"plans-{name}", plans, lengths, shape)
            for name, shape in self.shapes.items()
        }
        return [
            Point(
                name,
                plan,
                figures[name],
                times[name],
                {shape: found[name] for shape, found in shapes.items()},
                (lengths or {}).get(name),
            )
            for name, plan in plans.items()
        ]

    def _ranges(self, inputs: QuantizeInputs) -> dict[str, Range]:
        """Return the input range of every unit, measured once."""
        stored = self.folder.done("calibration")
        if stored is None:
            found = self.pool.call(worker.calibrate, inputs)
            stored = {unit: list(bounds) for unit, bounds in found.items()}
            self.folder.mark("calibration", stored)
        return {unit: (bounds[0], bounds[1]) for unit, bounds in stored.items()}


def _dump(figures: Mapping[str, StrictModel]) -> dict[str, JsonValue]:
    return {name: value.model_dump(mode="json") for name, value in figures.items()}
