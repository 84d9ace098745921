"""Artifact of a job: typed figures from the measurements, the files of the package, texts."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.config import StrictModel, dump_yaml
from orchestrator.config.tables import table
from orchestrator.errors import StageError
from orchestrator.modeling.package import stored_bytes
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.quantization.allocator import Point, error_plans, pareto, predicted_error
from orchestrator.quantization.backends.onnxruntime_cpu.session import MODEL_FILE
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.inputs import Prepared, Subject
from orchestrator.quantization.plans import PLAN_FILE, Plan, Unit
from orchestrator.quantization.results import (
    PARETO_FILE,
    PROBE_FILE,
    REPORT_FILE,
    DeployedPlan,
    Divergence,
    Latency,
    MeasuredArtifact,
    ParetoPoint,
    ParetoReport,
    Probe,
    QuantizationReport,
    QuantizeSummary,
    ReportedLatency,
    Runtime,
)
from orchestrator.quantization.source import Source
from orchestrator.storage import sha256_file

PROBE_SCHEMA: Final = 1
PROBE_TOLERANCE: Final = 1e-2
"""Other CPUs round floats in another order, which may move an activation to the next INT8 step."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Measurements that plans were predicted from."""

    errors: dict[str, Divergence]
    """Error of each unit alone, by ``<unit>@<kind>``."""
    roles: dict[str, Latency]
    """Time with each role alone in INT8, by ``<role>@<kind>``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to deploy, all measured points, the prices, and the file's own figures."""

    point: Point
    points: Sequence[Point]
    prices: Prices
    measured: MeasuredArtifact
    folder: Path
    """Holds the measured model file and its plan."""

    def limit(self, prepared: Prepared) -> int:
        """Return the longest input of the package in tokens; longer texts are cut."""
        return self.point.length or prepared.subject.limit

    @property
    def bytes(self) -> int:
        """Size of the model file."""
        return (self.folder / MODEL_FILE).stat().st_size


def summary(prepared: Prepared, choice: Choice) -> QuantizeSummary:
    """Return the figures of manifest and result: of the written file, on test rows."""
    measured = choice.measured
    test, latency, audited = measured.accuracy.test, measured.latency, measured.audit
    return QuantizeSummary(
        target=prepared.inputs.target,
        accuracy=test.accuracy,
        accuracy_float=test.reference,
        accuracy_drop=test.drop,
        accuracy_drop_validation=measured.accuracy.validation.drop,
        p_value=test.p_value,
        integer_units=audited.integer_units,
        units=audited.integer_units + audited.float_units,
        plan_name=choice.point.name,
        latency_ms=latency.int8.cpu_ms,
        latency_float_ms=latency.float.cpu_ms,
        latency_torch_ms=latency.torch.cpu_ms,
        speedup_over_float=1 / latency.int8.ratio,
        speedup_over_torch=latency.torch.ratio / latency.int8.ratio,
        bytes=choice.bytes,
        bytes_float=len(prepared.subject.emission.to_bytes()),
    )


def pareto_report(config: QuantizeConfig, choice: Choice) -> ParetoReport:
    """Return every measured point, for the report and for readers who prefer another one."""
    front = {id(point) for point in pareto(choice.points)}
    return ParetoReport(
        goal=config.goal,
        split="validation",
        latency_shape=(config.latency.batch_size, choice.measured.length),
        points=tuple(
            ParetoPoint(
                name=point.name,
                digest=point.plan.digest,
                integer_units=len(point.plan.integer),
                units=len(point.plan.kinds),
                accuracy=point.paired.accuracy,
                accuracy_drop=point.paired.drop,
                paired=point.paired,
                error=point.divergence,
                latency=point.latency,
                plan=dict(point.plan.kinds),
                latency_ms=point.latency.cpu_ms,
                length=point.length,
                predicted_kl=predicted_error(point.plan, choice.prices.errors),
                on_front=id(point) in front,
                chosen=point is choice.point,
            )
            for point in choice.points
        ),
    )


def quantization_report(
    config: QuantizeConfig, prepared: Prepared, choice: Choice
) -> QuantizationReport:
    """Return accuracy, latency and size before and after, the audit, and the prices."""
    measured, backend = choice.measured, prepared.inputs.backend
    return QuantizationReport(
        source=prepared.subject.package.ref,
        target=prepared.inputs.target,
        runtime=Runtime(name=backend.name, version=backend.version, threads=1),
        goal=config.goal,
        plan=DeployedPlan(**dict(choice.point.plan.to_file()), name=choice.point.name),
        max_length=choice.point.length,
        artefact_sha256=measured.sha256,
        accuracy=measured.accuracy,
        latency=ReportedLatency(
            **dict(measured.latency),
            shape=(config.latency.batch_size, measured.length),
            clock="CPU time of the calling thread, one thread; median over interleaved rounds",
        ),
        float_graph_difference=measured.float_graph_difference,
        sizes={
            "model.onnx": choice.bytes,
            "float model.onnx": len(prepared.subject.emission.to_bytes()),
            "source model.safetensors": stored_bytes(prepared.subject.package.path),
        },
        audit=measured.audit,
        sensitivity=choice.prices.errors,
        role_latency=choice.prices.roles,
    )


def probe(prepared: Prepared, choice: Choice) -> Probe:
    """Return a few texts with the answers that a server must reproduce before it takes traffic."""
    model = prepared.inputs.backend.load(choice.folder)
    arrays = prepared.processor.arrays(prepared.probe, None, choice.limit(prepared))
    return Probe(
        schema_version=PROBE_SCHEMA,
        texts=tuple(prepared.probe),
        outputs={
            name: values.astype(float).tolist() for name, values in model.predict(arrays).items()
        },
        tolerance=PROBE_TOLERANCE,
    )


COPIED: Final = ("config.json",)
"""Files of the float package that the quantized one has too."""


def write_model_file(folder: Path, source: Source, plan: Plan) -> bytes:
    """Write ``model.onnx`` and ``plan.json`` and return the model's bytes as read back."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(source.emit(plan).to_bytes())
    _write_json(folder / PLAN_FILE, plan.to_file(source.ranges))
    return (folder / MODEL_FILE).read_bytes()


def write_package(folder: Path, config: QuantizeConfig, prepared: Prepared, choice: Choice) -> None:
    """Write the files of the package.

    Raises:
        StageError: If the model file is not the one that was measured.
    """
    model = choice.folder / MODEL_FILE
    if sha256_file(model) != choice.measured.sha256:
        raise StageError(f"{model} changed after it was measured; start the job again")
    for name in (MODEL_FILE, PLAN_FILE):
        shutil.copyfile(choice.folder / name, folder / name)
    for name in COPIED:
        shutil.copyfile(prepared.subject.package.path / name, folder / name)
    prepared.processor.save(folder)
    copy_statement(prepared.subject.package.path, folder)
    (folder / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
    (folder / "evaluation").mkdir(exist_ok=True)
    _write_json(folder / PARETO_FILE, pareto_report(config, choice))
    _write_json(folder / REPORT_FILE, quantization_report(config, prepared, choice))
    _write_json(folder / PROBE_FILE, probe(prepared, choice))


def _write_json(path: Path, content: StrictModel) -> None:
    path.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")


def points_table(points: Sequence[Point]) -> str:
    """Return measured points as a table, fastest first."""
    rows = [
        (
            point.name,
            f"{len(point.plan.integer)}/{len(point.plan.kinds)}",
            f"{point.latency.ratio:.3f}",
            f"{point.latency.cpu_ms:.3f}",
            f"{point.paired.accuracy:.4f}",
            f"{point.paired.drop:+.4f}",
            f"{point.divergence.kl:.2e}",
        )
        for point in sorted(points, key=lambda point: point.latency.ratio)
    ]
    return table(rows, ("plan", "INT8", "time", "ms", "accuracy", "drop", "KL"), "<>>>>>>")


def no_plan(goal: GoalConfig, points: Sequence[Point]) -> str:
    """Return the message that no plan reaches the goal, with all measured plans."""
    asked = []
    if goal.max_accuracy_drop is not None:
        asked.append(f"max_accuracy_drop {goal.max_accuracy_drop:g}")
    if goal.max_latency_ms is not None:
        asked.append(f"max_latency_ms {goal.max_latency_ms:g}")
    return (
        f"no measured plan reaches {' and '.join(asked) or 'the goal'}. Nothing is committed. "
        "Measured (time relative to the float graph; accuracy on validation rows):\n"
        f"{points_table(points)}\nRelax the goal, allow more kinds, or give more evaluation rows"
    )


def plan_text(config: QuantizeConfig, subject: Subject) -> str:
    """Return the text that ``--check`` prints."""
    roles: dict[str, list[Unit]] = {}
    for unit in subject.units:
        roles.setdefault(unit.role, []).append(unit)
    lines = [
        f"{role}: {len(units)} x {units[0].shape[0]}x{units[0].shape[1]}, "
        f"kinds {', '.join(units[0].options(config.kinds))}"
        for role, units in roles.items()
    ]
    weights = sum(unit.shape[0] * unit.shape[1] for unit in subject.units)
    goal = (
        ", ".join(f"{name} {value}" for name, value in config.goal if value) or "knee of the front"
    )
    shorter = ", ".join(map(str, config.lengths))
    sessions = len(error_plans(subject.units, config.kinds))
    return "\n".join(
        [
            f"quantize {subject.package.ref}, target {subject.target!r}, inputs of up to "
            f"{subject.limit} tokens",
            f"data: {config.data.source}, {config.calibration_rows} calibration rows, up to "
            f"{config.evaluation_rows} validation and test rows",
            f"goal: {goal}",
            f"{len(subject.units)} units hold {weights:,} weights: {4 * weights / 2**20:.1f} MiB "
            f"in float, {weights / 2**20:.1f} MiB in INT8",
            *lines,
            f"{sessions} single-unit sessions, then up to {config.mixed_plans} mixed plans and the "
            "pure modes are measured"
            + (f", the fastest of them also with texts cut at {shorter} tokens" if shorter else ""),
        ]
    )
