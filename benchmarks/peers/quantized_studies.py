"""One study per trained model: the product's jobs, other searches, and all plans in one race.

A study's figures are a JSON file in the work folder; what is there is not measured again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from orchestrator.quantization import runner
from orchestrator.quantization.artifact import Choice
from orchestrator.quantization.backends.hosts import this_host
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.goals import NoPlanError
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.measured_results import PlanFigures
from orchestrator.quantization.measuring import Measurements
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import (
    PARETO_FILE,
    REPORT_FILE,
    ParetoReport,
    QuantizationReport,
)
from orchestrator.quantization.search import Confirmation, Search
from orchestrator.storage import RunFolder, atomic_write_json, read_json
from orchestrator.zoo import Zoo
from peers.planted_outliers import float_difference, planted
from peers.quantized_figures import FLOOR, Figures, Lab, Measured, Outcome
from peers.quantized_tasks import TASKS, rows_of, trained

METHODS: Final = ("front", "samp")
SWEPT: Final = ("names", "digits")
"""Cases that SAMP's sweep is measured on beside the default method: it takes as long again."""
OUTLIERS: Final = "-outliers"
STAGE: Final = "quantize"


Points = dict[str, tuple[Plan, PlanFigures]]
"""Plans that a job measured, with their figures, by name."""


class Alone:
    """Calls measuring functions at once, in this process: the interface of the job's pool."""

    def put(self, value: Any) -> Any:
        """Return the value."""
        return value

    def map(
        self, function: Any, items: Mapping[str, Sequence[Any]], title: str = "", unit: str = ""
    ) -> Any:
        """Yield (name, result) of each call."""
        return ((name, function(*arguments)) for name, arguments in items.items())

    def call(self, function: Any, *arguments: Any) -> Any:
        """Run one call."""
        return function(*arguments)


class Study:
    """Work folder and data.

    Args:
        work: Folder of what is done.
        data: Folder of the public sets.
    """

    def __init__(self, work: Path, data: Path) -> None:
        self.work, self.data, self.zoo = work, data, Zoo(work / "zoo")

    def is_measured(self, case: str) -> bool:
        """Whether the figures of a case are there."""
        return self._file(case).is_file()

    def figures(self, case: str) -> Figures:
        """Return the figures of a case."""
        return Figures.model_validate(read_json(self._file(case)))

    def train(self, case: str) -> None:
        """Make the package of a case."""
        trained(case.removesuffix(OUTLIERS), self.work, self.data)
        if case.endswith(OUTLIERS):
            planted(self.zoo, case.removesuffix(OUTLIERS))

    def quantize(self, case: str) -> None:
        """Run the quantization job with each method, its measurements in this process."""
        for method in methods_of(case):
            try:
                runner.run(self.job(case, method), Alone())
            except NoPlanError as error:
                print(f"{case}, {method}: {error}", file=sys.stderr)

    def job(self, case: str, method: str) -> QuantizeConfig:
        """The quantization job of a case."""
        name = case.removesuffix(OUTLIERS)
        task = TASKS[name]
        return QuantizeConfig.model_validate(
            {
                "run": {
                    "name": f"{case}-{method}",
                    "dir": str(self.work / "runs"),
                    "zoo": str(self.work / "zoo"),
                },
                "package": case,
                "output": f"{case}-{method}",
                "data": {"source": rows_of(name, self.work, self.data)},
                "goal": {"max_accuracy_drop": FLOOR, "allow_float": True},
                "method": method,
                "kinds": first_kind() if method == "samp" else None,
                "calibration_rows": 64,
                "evaluation_rows": max(task.rows),
                "latency": {} if task.length is None else {"length": task.length},
                "promotion": {"max_drop": {"default": 1.0}, "statistic": "mean"},
            }
        )

    def measure(self, case: str) -> None:
        """Time all plans of all methods in one run per engine, and store the figures."""
        found = {method: self._searched(case, method) for method in methods_of(case)}
        with self._lab(case) as lab:
            plans = {f"{m} {n}": plan for m in found for n, (plan, _) in found[m][1].items()}
            known = [each for _, points in found.values() for each in points.values()]
            lab.known = {plan.digest: figures for plan, figures in known if not figures.stopped}
            others: dict[str, tuple[Measured, ...]] = {}
            counts: dict[str, int] = {}
            times: dict[str, float] = {}
            if find_spec("nncf") and find_spec("openvino"):
                from peers.accuracy_control import Controls

                controls = Controls(self.zoo.get(case).path, lab)
                plans |= controls.plans()
                others = controls.race([plan for plan, _ in found["front"][1].values()])
                counts, times = controls.counts, controls.float_ms
            measured, texts, task = lab.race(plans), lab.inputs.texts, lab.inputs.task
        assert task is not None
        paired = measured[0].figures.paired
        assert paired is not None
        difference = None
        if case.endswith(OUTLIERS):
            batch = texts.validation.parts[0].batches[0]
            difference = float_difference(self.zoo, case.removesuffix(OUTLIERS), batch)
        self._write(
            Figures(
                case=case,
                metric=task.primary.name,
                rows={name: len(getattr(texts, name)) for name in ("validation", "test")},
                reference=paired.reference,
                jobs={method: outcome for method, (outcome, _) in found.items()},
                plans=measured,
                engines=others,
                nncf_evaluations=counts,
                float_ms={"ours": lab.float_ms, **times},
                difference=difference,
            )
        )

    def complete(self, case: str) -> None:
        """Time the deployed plan and the best pure mode in turns, unless that is done.

        Of planted outliers: measure fully quantized plans without equalized norms, too.
        """
        figures = self.figures(case)
        ours, pure = figures.deployed(), figures.best_pure
        fights = figures.duel is None and ours.plan != pure.plan
        bare = case.endswith(OUTLIERS) and figures.bare is None
        if not fights and not bare:
            return
        with self._lab(case) as lab:
            found: dict[str, Any] = {}
            if fights:
                found["duel"] = lab.duel(Plan(ours.plan), Plan(pure.plan))
            if bare:
                full = (p for p in figures.plans if p.name.startswith("fully_quant"))
                found["bare"] = {p.name: lab.bare_drop(Plan(p.plan)) for p in full}
        self._write(figures.model_copy(update=found))

    @contextmanager
    def _lab(self, case: str) -> Iterator[Lab]:
        """Open the run of the default job, with what it observed of the model."""
        config = self.job(case, "front")
        prepared = prepare(config)
        with RunFolder.open(config, STAGE) as folder:
            measurements = Measurements(prepared.inputs, folder, Alone())
            measurements.equalize(prepared.subject.units, config.allowed)
            yield Lab(measurements, prepared.subject.units)

    def _write(self, figures: Figures) -> None:
        path = self._file(figures.case)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, figures.model_dump(mode="json"))

    def _file(self, case: str) -> Path:
        return self.work / "figures" / f"{case}.json"

    def _searched(self, case: str, method: str) -> tuple[Outcome, Points]:
        """Return how a job ended, and the plans that it measured."""
        name = f"{case}-{method}"
        if name not in self.zoo.names():
            return self._unconfirmed(case, method)
        package = self.zoo.get(name)
        points = ParetoReport.model_validate(package.read_json(PARETO_FILE)).points
        accuracy = QuantizationReport.model_validate(package.read_json(REPORT_FILE)).accuracy
        assert accuracy is not None
        outcome = Outcome(
            method=method,
            chosen=next(point.name for point in points if point.chosen),
            confirmed=True,
            test=PlanFigures(paired=accuracy.test, divergence=accuracy.test.error),
            evaluations=sum(point.integer_units > 0 for point in points),
        )
        return outcome, {
            point.name: (
                Plan(point.plan),
                PlanFigures(paired=point.paired, divergence=point.error, stopped=point.stopped),
            )
            for point in points
        }

    def _unconfirmed(self, case: str, method: str) -> tuple[Outcome, Points]:
        """Replay a search from its journal: test rows did not confirm what it chose."""
        config = self.job(case, method)
        with RunFolder.open(config, STAGE) as folder:
            search = Search(config, prepare(config), folder, Alone())
            choice: Choice = next(search.choices())
            stored = folder.done("confirmation")
        assert stored is not None
        outcome = Outcome(
            method=method,
            chosen=choice.point.name,
            confirmed=False,
            test=Confirmation.model_validate(stored).figures,
            evaluations=sum(bool(point.plan.integer) for point in search.points),
        )
        return outcome, {p.name: (Plan(p.plan.kinds), p.figures) for p in search.points}


def methods_of(case: str) -> tuple[str, ...]:
    """Return the methods of a case."""
    return METHODS if case in SWEPT else METHODS[:1]


def first_kind() -> tuple[KindName]:
    """Return the kind of the paper's sweep here: one calibrated range per activation."""
    return ("static_s8" if this_host().sums_bytes_exactly else "static_s7",)
