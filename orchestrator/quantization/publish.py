"""What a quantization job writes: the artefact, its evaluation, the package; and tables to read."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnxruntime as ort

from orchestrator.config import JobResult, dump_yaml
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import StageError
from orchestrator.modeling.package import stored_bytes
from orchestrator.quantization.allocator import Goal, Point, pareto
from orchestrator.quantization.backends.onnx_session import MODEL_FILE, PLAN_FILE, OnnxModel
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.emission.model import Emission
from orchestrator.quantization.plans import Plan, Unit
from orchestrator.quantization.sensitivity import predicted_error
from orchestrator.quantization.source import Inputs, Source
from orchestrator.quantization.worker import DEPLOYED_NAME, FLOAT_NAME, TORCH_NAME
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.zoo import Package, Zoo

if TYPE_CHECKING:
    from orchestrator.data.processors.text import TextProcessor

KIND: Final = "quantized"
STAGE: Final = "quantize"
PROBE_SCHEMA: Final = 1
PROBE_TOLERANCE: Final = 1e-2
"""Other CPUs round floats in another order, which may move an activation to the next INT8 step."""
PROBE_CHARACTERS: Final = 300
COPIED: Final = ("config.json",)


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to deploy, all measured points, the price list, and the file's own figures."""

    point: Point
    points: list[Point]
    search: Mapping[str, Any]
    measured: Mapping[str, Any]


def write_model_file(folder: Path, source: Source, plan: Plan) -> bytes:
    """Write ``model.onnx`` and ``plan.json`` afresh and return the model's bytes as read back."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(source.emit(plan).to_bytes())
    _write_json(folder / PLAN_FILE, plan.to_json(source.ranges))
    return (folder / MODEL_FILE).read_bytes()


def commit(
    config: QuantizeConfig, inputs: Inputs, folder: RunFolder, choice: Choice, artefact: Path
) -> JobResult:
    """Commit the measured artefact as a package and return the job's result."""
    task = inputs.package.manifest.task
    run_id = (folder.done("package") or {})["run_id"]
    with Zoo(config.run.zoo).draft(
        config.output,
        kind=KIND,
        producer={"stage": STAGE, "job": config.run.name, "run_id": run_id},
        parents=[inputs.package.ref],
        task=None if task is None else task.model_dump(mode="json"),
        metrics=summary(inputs, choice, artefact),
        licence=inputs.package.manifest.licence,
    ) as draft:
        fill(draft.path, config, inputs, choice, artefact)
        return _result(draft.commit(), folder.path)


def committed(config: QuantizeConfig, run_id: str, folder: Path) -> JobResult | None:
    """Return the result of a run that was killed right after it had committed, if there is one."""
    for package in Zoo(config.run.zoo).packages():
        made_by = package.manifest.producer.model_extra or {}
        if package.name == config.output and made_by.get("run_id") == run_id:
            return _result(package, folder)
    return None


def _result(package: Package, folder: Path) -> JobResult:
    plan = package.read_json(PLAN_FILE)["units"]
    metrics = package.manifest.metrics | {"plan": plan}
    return JobResult(status="done", package=package.ref, metrics=metrics, run_dir=str(folder))


def fill(
    folder: Path, config: QuantizeConfig, inputs: Inputs, choice: Choice, artefact: Path
) -> None:
    """Write the files of the package.

    Raises:
        StageError: if the artefact is not the file that was measured.
    """
    model = (artefact / MODEL_FILE).read_bytes()
    if sha256_bytes(model) != choice.measured["sha256"]:
        raise StageError(
            f"{artefact / MODEL_FILE} changed after it was measured; start the job again"
        )
    for name in (MODEL_FILE, PLAN_FILE):
        shutil.copyfile(artefact / name, folder / name)
    for name in COPIED:
        shutil.copyfile(inputs.package.path / name, folder / name)
    inputs.processor.save(folder)
    (folder / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
    evaluation = folder / "evaluation"
    evaluation.mkdir(exist_ok=True)
    _write_json(evaluation / "pareto.json", pareto_json(config, choice))
    _write_json(evaluation / "quantization.json", report_json(config, inputs, choice, artefact))
    _write_json(evaluation / "probe.json", probe_json(artefact, inputs))


def summary(inputs: Inputs, choice: Choice, artefact: Path) -> dict[str, Any]:
    """Return the figures of manifest and result: of the written file, on test rows."""
    test, validation = (choice.measured["accuracy"][split] for split in ("test", "validation"))
    latency = choice.measured["latency"]
    audited = choice.measured["audit"]
    return {
        "target": inputs.target,
        "accuracy": test["accuracy"],
        "accuracy_float": test["reference"],
        "accuracy_drop": test["drop"],
        "accuracy_drop_validation": validation["drop"],
        "p_value": test["p_value"],
        "integer_units": audited["integer_units"],
        "units": audited["integer_units"] + audited["float_units"],
        "plan_name": choice.point.name,
        "latency_ms": latency[DEPLOYED_NAME]["cpu_ms"],
        "latency_float_ms": latency[FLOAT_NAME]["cpu_ms"],
        "latency_torch_ms": latency[TORCH_NAME]["cpu_ms"],
        "speedup_over_float": 1 / latency[DEPLOYED_NAME]["ratio"],
        "speedup_over_torch": latency[TORCH_NAME]["ratio"] / latency[DEPLOYED_NAME]["ratio"],
        "bytes": (artefact / MODEL_FILE).stat().st_size,
        "bytes_float": len(inputs.emission.to_bytes()),
    }


def pareto_json(config: QuantizeConfig, choice: Choice) -> dict[str, Any]:
    """Return every measured point, for the report and for whoever wants another one."""
    front = {id(point) for point in pareto(choice.points)}
    errors = choice.search["errors"]
    points = [
        point.to_json()
        | {
            "latency_ms": point.latency.cpu_ms,
            "predicted_kl": predicted_error(point.plan, errors),
            "on_front": id(point) in front,
            "chosen": point is choice.point,
        }
        for point in choice.points
    ]
    return {
        "goal": config.goal.model_dump(mode="json"),
        "split": "validation",
        "latency_shape": [config.latency.batch_size, choice.measured["length"]],
        "points": points,
    }


def report_json(
    config: QuantizeConfig, inputs: Inputs, choice: Choice, artefact: Path
) -> dict[str, Any]:
    """Return accuracy, latency and size before and after, the audit, and the price list."""
    return {
        "source": inputs.package.ref,
        "target": inputs.target,
        "runtime": {"name": "onnxruntime", "version": ort.__version__, "threads": 1},
        "goal": config.goal.model_dump(mode="json"),
        "plan": choice.point.plan.to_json() | {"name": choice.point.name},
        "artefact_sha256": choice.measured["sha256"],
        "accuracy": choice.measured["accuracy"],
        "latency": {
            "shape": [config.latency.batch_size, choice.measured["length"]],
            "clock": "CPU time of the calling thread, one thread; median over interleaved rounds",
            **choice.measured["latency"],
        },
        "float_graph_difference": choice.measured["float_graph_difference"],
        "sizes": {
            "model.onnx": (artefact / MODEL_FILE).stat().st_size,
            "float model.onnx": len(inputs.emission.to_bytes()),
            "source model.safetensors": stored_bytes(inputs.package.path),
        },
        "audit": choice.measured["audit"],
        "sensitivity": choice.search["errors"],
        "role_latency": choice.search["roles"],
    }


def probe_json(artefact: Path, inputs: Inputs) -> dict[str, Any]:
    """Return a few texts with the answers the package must give on the machine that serves it."""
    model = OnnxModel.load(artefact)
    answers = model.predict(inputs.processor.arrays(inputs.probe, None, inputs.limit))
    return {
        "schema_version": PROBE_SCHEMA,
        "texts": inputs.probe,
        "outputs": {name: values.astype(float).tolist() for name, values in answers.items()},
        "tolerance": PROBE_TOLERANCE,
    }


def probe_texts(rows: Rows, processor: "TextProcessor", count: int, limit: int) -> list[str]:
    """Choose short, different texts that are not cut."""
    unique = list(dict.fromkeys(text for text in rows.texts if len(text) <= PROBE_CHARACTERS))
    whole = [
        text
        for text, ids in zip(unique, processor.encode(unique), strict=True)
        if len(ids) < limit - 2
    ]
    chosen = whole or rows.texts
    step = max(1, len(chosen) // count)
    return list(chosen[::step][:count])


def table(points: Sequence[Point]) -> str:
    """Return measured points as a table, fastest first."""
    header = f"{'plan':<22}{'INT8':>7}{'time':>8}{'ms':>9}{'accuracy':>10}{'drop':>9}{'KL':>11}"
    lines = [
        f"{point.name:<22}{len(point.plan.integer):>3}/{len(point.plan.kinds):<3}"
        f"{point.latency.ratio:>8.3f}{point.latency.cpu_ms:>9.3f}{point.paired.accuracy:>10.4f}"
        f"{point.paired.drop:>+9.4f}{point.divergence.kl:>11.2e}"
        for point in sorted(points, key=lambda point: point.latency.ratio)
    ]
    return "\n".join([header, *lines])


def no_plan(goal: Goal, points: Sequence[Point]) -> str:
    """Explain that nothing keeps the goal, and what there is."""
    asked = []
    if goal.max_accuracy_drop is not None:
        asked.append(f"max_accuracy_drop {goal.max_accuracy_drop:g}")
    if goal.max_latency_ms is not None:
        asked.append(f"max_latency_ms {goal.max_latency_ms:g}")
    return (
        f"no measured plan keeps {' and '.join(asked) or 'the goal'}. Nothing is committed. "
        "Measured (time relative to the float graph; accuracy on validation rows):\n"
        f"{table(points)}\nRelax the goal, allow more kinds, or give more evaluation rows"
    )


def plan_text(
    config: QuantizeConfig, ref: str, target: str, limit: int, emission: Emission, sessions: int
) -> str:
    """Return what ``--check`` prints."""
    roles: dict[str, list[Unit]] = {}
    for unit in emission.units:
        roles.setdefault(unit.role, []).append(unit)
    lines = [
        f"{role}: {len(units)} x {units[0].shape[0]}x{units[0].shape[1]}, "
        f"kinds {', '.join(units[0].options(config.kinds))}"
        for role, units in roles.items()
    ]
    weights = sum(unit.shape[0] * unit.shape[1] for unit in emission.units)
    goal = (
        ", ".join(f"{name} {value}" for name, value in config.goal if value) or "knee of the front"
    )
    return "\n".join(
        [
            f"quantize {ref}, target {target!r}, inputs of up to {limit} tokens",
            f"data: {config.data.source}, {config.calibration_rows} calibration rows, up to "
            f"{config.evaluation_rows} validation and test rows",
            f"goal: {goal}",
            f"{len(emission.units)} units hold {weights:,} weights: {4 * weights / 2**20:.1f} MiB "
            f"in float, {weights / 2**20:.1f} MiB in INT8",
            *lines,
            f"{sessions} single-unit sessions, then up to {config.mixed_plans} mixed plans and the "
            "pure modes are measured",
        ]
    )


def cache_folder(config: QuantizeConfig) -> Path | None:
    """Return the folder for prepared data."""
    return None if config.cache is None else Path(config.cache)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
