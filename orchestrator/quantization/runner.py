"""The quantization job: a package and a bound in, an INT8 package and its Pareto front out.

Steps: measure each unit's error and each role's time, let the allocator propose plans, measure
these plans, take the best that keeps the bound, write it, measure the written file again, commit.
Plans are evaluated by Ray tasks, every finished measurement is in the run's journal. Time is
measured by one task at a time, while nothing else of this job runs.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from orchestrator.cluster.observe.progress import Progress
from orchestrator.cluster.session import ray_session
from orchestrator.config import ClusterSection, JobResult
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.tasks import load_task
from orchestrator.errors import InputError, OrchestratorError, StageError
from orchestrator.quantization import publish, worker
from orchestrator.quantization.accuracy import Divergence, Paired
from orchestrator.quantization.allocator import (
    Goal,
    Point,
    candidates,
    ranked,
    surrogate_front,
)
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.emission.model import Emission
from orchestrator.quantization.latency import Latency
from orchestrator.quantization.plans import Plan, named_plans
from orchestrator.quantization.sensitivity import error_plans, latency_plans, options
from orchestrator.quantization.source import (
    Inputs,
    Source,
    check_labels,
    choose_target,
    encode_task,
    input_limit,
    read_source,
)
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.zoo import Zoo

if TYPE_CHECKING:
    from orchestrator.zoo import Package

logger = logging.getLogger(__name__)
STAGE = publish.STAGE
ROUNDING = 1e-9
"""Slack on the accuracy bound: a drop is a fraction of two whole numbers."""


def run(config: QuantizeConfig) -> JobResult:
    """Quantize a package under the configured goal.

    Raises:
        InputError: if the package, the target or the data do not fit.
        StageError: if no measured plan keeps the goal.
    """
    # A first start checks everything before it leaves a folder; a later one reads the folder first.
    inputs = None if (Path(config.run.dir) / config.run.name).exists() else prepare(config)
    with RunFolder.open(config, STAGE) as folder:
        finished = folder.finished()
        if finished is not None:
            return finished
        pinned = folder.done("package")
        if pinned is None:
            inputs = inputs or prepare(config)
            pinned = {"ref": inputs.package.ref, "run_id": uuid.uuid4().hex}
            folder.mark("package", pinned)
        config = config.model_copy(update={"package": pinned["ref"]})  # its alias may move
        result = publish.committed(config, pinned["run_id"], folder.path)
        if result is None:
            result = _measured(config, inputs or prepare(config), folder)
        folder.finish(result)
    return result


def _measured(config: QuantizeConfig, inputs: Inputs, folder: RunFolder) -> JobResult:
    cluster = config.cluster
    purpose = f"workers: {cluster.workers} x {cluster.cpus_per_worker:g} CPU"
    with ray_session(cluster, purpose, cluster.workers * cluster.cpus_per_worker):
        return _Search(config, inputs, folder).run()


def check(config: QuantizeConfig) -> str:
    """Say what the job would do: the package's units, and how many sessions it would measure."""
    package, source, target, limit = _resolve(config)
    emission = source.emit()
    _require_units(emission, source)
    plans = error_plans(emission.units, config.kinds)
    return publish.plan_text(config, package.ref, target, limit, emission, len(plans))


def prepare(config: QuantizeConfig) -> Inputs:
    """Read the package and the data, and make sure that they belong together.

    Raises:
        InputError: if they do not, or nothing in the package can be executed in INT8.
    """
    package, source, target, limit = _resolve(config)
    emission = source.emit()
    _require_units(emission, source)
    task = load_task(config.data, publish.cache_folder(config))
    stored = package.manifest.task
    head = choose_target(source.model_config, target)
    check_labels(head, task, stored.labels if stored is not None else None)
    processor = TextProcessor.load(package.path)
    texts = encode_task(task, processor, config, limit)
    probe = publish.probe_texts(task.test, processor, config.probe_texts, limit)
    return Inputs(package, source, target, limit, emission, texts, probe, processor)


def _resolve(config: QuantizeConfig) -> tuple["Package", Source, str, int]:
    package = Zoo(config.run.zoo).get(config.package)
    if package.kind == "quantized":
        raise InputError(
            f"package: {package.ref} is quantized already; give the float package it was made from"
        )
    source = read_source(package.path)
    target = choose_target(source.model_config, config.target).name
    return package, source, target, input_limit(config, source.model_config, package)


def _require_units(emission: Emission, source: Source) -> None:
    if not emission.units:
        raise InputError(
            f"encoder {source.config['encoder']['type']!r} has no part with an INT8 kernel on this "
            "runtime (GRU and RNN have none); transformer, gatedcnn and LSTM encoders have"
        )


class TaskPool:
    """Runs functions of ``worker`` as Ray tasks, ``cluster.workers`` at a time."""

    def __init__(self, cluster: ClusterSection) -> None:
        self._limit = cluster.workers
        self._options = {"num_cpus": cluster.cpus_per_worker, "max_retries": cluster.max_failures}

    def map(
        self, function: Callable[..., Any], items: Mapping[str, Sequence[Any]]
    ) -> Iterator[tuple[str, Any]]:
        """Yield (name, result) as calls end; values that many calls read should be ``ray.put``.

        Raises:
            OrchestratorError: what a call raised; StageError if its process died too often.
        """
        remote = ray.remote(function).options(name=function.__name__, **self._options)
        waiting, running = list(items.items()), dict[Any, str]()
        try:
            while waiting or running:
                while waiting and len(running) < self._limit:
                    name, arguments = waiting.pop(0)
                    running[remote.remote(*arguments)] = name
                done, _ = ray.wait(list(running), num_returns=1)
                yield running.pop(done[0]), _value(done[0])
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one call while nothing else of this pool runs, and return its result."""
        return next(iter(self.map(function, {"call": arguments})))[1]


def _value(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OrchestratorError):
            raise error.cause from None
        raise StageError(f"a measurement failed: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise StageError(
            f"a measuring process died ({type(error).__name__}: {error}); start the same command "
            "again to continue, with fewer cluster.workers if memory is short"
        ) from error


class _Search:
    """One job's way from the float package to the committed INT8 package."""

    def __init__(self, config: QuantizeConfig, inputs: Inputs, folder: RunFolder) -> None:
        self.config = config
        self.inputs = inputs
        self.folder = folder
        self.units = inputs.emission.units
        self.pool = TaskPool(config.cluster)
        self.texts = ray.put(inputs.texts)
        self.calibrated = self._calibrate()
        self.source = ray.put(self.calibrated)
        self.goal = Goal(**config.goal.model_dump())
        latency = config.latency
        self.batch = {
            "batch_size": latency.batch_size,
            "length": min(latency.length or inputs.limit, inputs.limit),
            "rounds": latency.rounds,
            "calls": latency.calls,
        }

    def run(self) -> JobResult:
        """Search, verify, commit."""
        reference = ray.put(self.pool.call(worker.float_outputs, self.source, self.texts))
        errors = self._errors(reference)
        roles = self._latencies("roles", latency_plans(self.units, self.config.kinds))
        front = surrogate_front(self.units, options(self.units, self.config.kinds, errors, roles))
        baselines = named_plans(self.units, self.config.kinds)
        plans = candidates(front, baselines, self.config.mixed_plans)
        points = self._points(plans, reference)
        search = {"errors": errors, "roles": roles}
        logger.info("measured plans\n%s", publish.table(points))
        for point in ranked(points, self.goal):
            result = self._deploy(point, points, search)
            if result is not None:
                return result
        raise StageError(publish.no_plan(self.goal, points))

    def _calibrate(self) -> Source:
        """Measure the input range of every unit, and return the model with them."""
        stored = self.folder.done("calibration")
        if stored is None:
            found = self.pool.call(worker.calibrate, self.inputs.source, self.texts)
            stored = {unit: list(bounds) for unit, bounds in found.items()}
            self.folder.mark("calibration", stored)
        ranges = {unit: (bounds[0], bounds[1]) for unit, bounds in stored.items()}
        return replace(self.inputs.source, ranges=ranges)

    def _errors(self, reference: Any) -> dict[str, dict[str, float]]:
        """Measure every unit in every kind alone; one task a unit."""
        plans = error_plans(self.units, self.config.kinds)
        names = {
            unit.name: [n for n in plans if plans[n].integer.keys() == {unit.name}]
            for unit in self.units
        }
        errors: dict[str, dict[str, float]] = {}
        missing: dict[str, Sequence[Any]] = {}
        for unit, group in names.items():
            stored = self.folder.done(f"error-{unit}")
            if stored is not None:
                errors |= stored
            else:
                chosen = [plans[name] for name in group]
                missing[unit] = (self.source, self.texts, reference, chosen)
        with Progress(f"{STAGE}: error of each unit", len(missing), "unit") as progress:
            for unit, found in self.pool.map(worker.measure_errors, missing):
                measured = dict(zip(names[unit], found, strict=True))
                self.folder.mark(f"error-{unit}", measured)
                errors |= measured
                progress.update(progress.done + 1, unit)
        return errors

    def _latencies(self, name: str, plans: Mapping[str, Plan]) -> dict[str, Any]:
        """Time plans in one interleaved run."""
        digests = sha256_bytes(repr([plan.digest for plan in plans.values()]).encode())[:12]
        step = f"latency-{name}-{digests}"
        stored = self.folder.done(step)
        if stored is None:
            stored = self.pool.call(worker.measure_latencies, self.source, dict(plans), self.batch)
            self.folder.mark(step, stored)
        return stored

    def _points(self, plans: Mapping[str, Plan], reference: Any) -> list[Point]:
        """Measure accuracy, distance and time of the proposed plans."""
        found: dict[str, Any] = {}
        missing: dict[str, Sequence[Any]] = {}
        for name, plan in plans.items():
            found[name] = self.folder.done(f"point-{plan.digest}")
            if found[name] is None:
                missing[name] = (self.source, self.texts, reference, plan, self.inputs.target)
        with Progress(f"{STAGE}: accuracy of each plan", len(missing), "plan") as progress:
            for name, measured in self.pool.map(worker.measure_plan, missing):
                self.folder.mark(f"point-{plans[name].digest}", measured)
                found[name] = measured
                progress.update(progress.done + 1, name)
        latencies = self._latencies("plans", plans)
        return [
            Point(
                name,
                plan,
                Paired.from_json(found[name]["paired"]),
                Divergence(**found[name]["divergence"]),
                Latency.from_json(latencies[name]),
            )
            for name, plan in plans.items()
        ]

    def _deploy(
        self, point: Point, points: list[Point], search: Mapping[str, Any]
    ) -> JobResult | None:
        """Write a plan's model, measure the written file, commit it; None if it breaks the goal."""
        inputs = self.inputs
        artefact = self.folder.path / "artefact"
        model = publish.write_model_file(artefact, self.calibrated, point.plan)
        measured = self.pool.call(
            worker.measure_artefact,
            self.source,
            self.texts,
            model,
            point.plan,
            inputs.target,
            self.batch,
        )
        broken = broken_bounds(measured, self.goal)
        if broken:
            logger.warning("plan %s is not taken: %s", point.name, "; ".join(broken))
            return None
        return publish.commit(
            self.config,
            inputs,
            self.folder,
            publish.Choice(point, points, search, measured),
            artefact,
        )


def broken_bounds(measured: Mapping[str, Any], goal: Goal) -> list[str]:
    """Say which bounds the written file breaks: accuracy on validation and test rows, and time."""
    broken = []
    if goal.max_accuracy_drop is not None:
        for split, figures in measured["accuracy"].items():
            if figures["drop"] > goal.max_accuracy_drop + ROUNDING:
                broken.append(
                    f"accuracy drops by {figures['drop']:.4f} on {split} rows, "
                    f"{goal.max_accuracy_drop:g} is allowed"
                )
    time = measured["latency"][worker.DEPLOYED_NAME]["cpu_ms"]
    if goal.max_latency_ms is not None and time > goal.max_latency_ms:
        broken.append(f"a call takes {time:.3f} ms, {goal.max_latency_ms:g} is allowed")
    return broken
