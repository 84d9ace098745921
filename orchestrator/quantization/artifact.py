"""Artifact of a job: typed figures from the measurements, and the files of the package."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.config import StrictModel, dump_yaml
from orchestrator.data.rows.storage import fingerprint
from orchestrator.errors import StageError
from orchestrator.inference.dispatch import DISPATCH_FILE
from orchestrator.modeling.package import stored_bytes
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.quantization.allocator import Option, predicted
from orchestrator.quantization.backends.backend import Backend
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.flips import Margins, predicted_flips
from orchestrator.quantization.inputs import Prepared, probe_texts
from orchestrator.quantization.measured_results import (
    Accuracy,
    Divergence,
    PlanFigures,
    SplitFigures,
)
from orchestrator.quantization.plans import PLAN_FILE, Plan
from orchestrator.quantization.probing import TEXTS_PER_CHOICE, make_probe, perturbed_sources
from orchestrator.quantization.ranking import Point, pareto
from orchestrator.quantization.results import (
    PARETO_FILE,
    PROBE_FILE,
    REPORT_FILE,
    DeployedPlan,
    Latency,
    MeasuredArtifact,
    ParetoPoint,
    ParetoReport,
    Probe,
    QuantizationReport,
    QuantizeSummary,
    ReportedLatency,
    Runtime,
    SplitRecord,
)
from orchestrator.quantization.source import Source
from orchestrator.storage import sha256_file


@dataclass(frozen=True, slots=True)
class Prices:
    """Measurements that plans were predicted from; empty of a method that predicts nothing."""

    errors: Mapping[str, Divergence]
    """Error of each unit alone, by ``<unit>@<kind>``."""
    roles: Mapping[str, Latency]
    """Time with each role alone in INT8, by ``<role>@<kind>``."""
    options: Mapping[str, Sequence[Option]]
    """Time and error that they come to for each unit."""
    margins: Margins | None = None
    """Margins of the float model's answers to the validation rows."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to deploy, all measured points, the prices, and the file's own figures."""

    point: Point
    points: Sequence[Point]
    prices: Prices
    measured: MeasuredArtifact
    folder: Path
    """Holds the measured model file and its plan."""
    source: Source
    """The float model with what was observed of it: the model file is emitted from it."""
    model_file: str
    """Name of the model file."""

    def limit(self, prepared: Prepared) -> int:
        """Return the longest input of the package in tokens; longer texts are cut."""
        return self.point.length or prepared.subject.limit

    @property
    def bytes(self) -> int:
        """Size of the model file."""
        return (self.folder / self.model_file).stat().st_size


def summary(prepared: Prepared, choice: Choice) -> QuantizeSummary:
    """Return the figures of manifest and result: of the written file, on test rows."""
    measured = choice.measured
    latency, audited = measured.latency, measured.audit
    test, validation = tested(measured), measured.validation
    found = QuantizeSummary(
        target=prepared.subject.target,
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
    more: dict[str, float | None] = {}
    if test.paired is not None and validation.paired is not None:
        more = {
            "accuracy": test.paired.accuracy,
            "accuracy_float": test.paired.reference,
            "accuracy_drop": test.paired.drop,
            "accuracy_drop_validation": validation.paired.drop,
            "p_value": test.paired.p_value,
        }
    if (near := test.closeness) is not None:
        more["cosine"] = near.cosine.value
        more["agreement"] = None if near.agreement is None else near.agreement.value
        more["kl"] = None if near.kl is None else near.kl.value
    return found.model_copy(update=more)


def tested(measured: MeasuredArtifact) -> PlanFigures:
    """Return the figures on test rows.

    Raises:
        StageError: They were not measured.
    """
    if measured.test is None:
        raise StageError("the test rows were not read; nothing is committed")
    return measured.test


def pareto_report(config: QuantizeConfig, choice: Choice) -> ParetoReport:
    """Return every measured point, for the report and for readers who prefer another one."""
    front = {id(point) for point in pareto(choice.points)}
    return ParetoReport(
        goal=config.goal,
        split="validation",
        latency_shape=(config.latency.batch_size, choice.measured.length),
        points=tuple(
            _pareto_point(point, choice, on_front=id(point) in front) for point in choice.points
        ),
    )


def _pareto_point(point: Point, choice: Choice, *, on_front: bool) -> ParetoPoint:
    figures, foreseen = point.figures, predicted(point.plan, choice.prices.options)
    paired = figures.paired
    return ParetoPoint(
        name=point.name,
        digest=point.plan.digest,
        integer_units=len(point.plan.integer),
        units=len(point.plan.kinds),
        tables=point.plan.tables,
        accuracy=None if paired is None else paired.accuracy,
        accuracy_drop=None if paired is None else paired.drop,
        paired=paired,
        gates=figures.gates,
        closeness=figures.closeness,
        error=figures.divergence,
        latency=point.latency,
        buckets=dict(point.buckets),
        plan=dict(point.plan.kinds),
        latency_ms=point.latency.cpu_ms,
        size=figures.size,
        length=point.length,
        predicted_kl=None if foreseen is None else foreseen.error,
        predicted_ratio=None if foreseen is None else 1 + foreseen.time,
        predicted_flips=predicted_flips(point.plan, choice.prices.errors, choice.prices.margins),
        stopped=figures.stopped,
        on_front=on_front,
        chosen=point is choice.point,
    )


def quantization_report(
    config: QuantizeConfig, prepared: Prepared, choice: Choice
) -> QuantizationReport:
    """Return quality, latency and size before and after, the audit, and the prices."""
    measured, backend = choice.measured, prepared.inputs.backend
    splits = {"validation": measured.validation, "test": tested(measured)}
    labelled = {
        name: SplitFigures(**dict(each.paired), error=each.divergence)
        for name, each in splits.items()
        if each.paired is not None
    }
    return QuantizationReport(
        source=prepared.subject.package.ref,
        target=prepared.subject.target,
        method=config.method,
        runtime=Runtime(name=backend.name, version=backend.version, threads=1),
        goal=config.goal,
        plan=DeployedPlan(**dict(backend.plan_file(choice.point.plan)), name=choice.point.name),
        max_length=choice.point.length,
        artefact_sha256=measured.sha256,
        accuracy=Accuracy(**labelled) if labelled else None,
        gates={name: each.gates for name, each in splits.items() if each.gates},
        closeness={n: each.closeness for n, each in splits.items() if each.closeness is not None},
        splits=split_records(prepared),
        latency=ReportedLatency(
            **dict(measured.latency),
            shape=(config.latency.batch_size, measured.length),
            clock="CPU time of the calling thread, one thread; median over interleaved rounds",
        ),
        buckets=measured.buckets,
        float_graph_difference=measured.float_graph_difference,
        sizes={
            choice.model_file: choice.bytes,
            f"float {choice.model_file}": len(prepared.subject.emission.to_bytes()),
            "source model.safetensors": stored_bytes(prepared.subject.package.path),
        },
        audit=measured.audit,
        sensitivity=dict(choice.prices.errors),
        role_latency=dict(choice.prices.roles),
    )


def split_records(prepared: Prepared) -> dict[str, SplitRecord]:
    """Return number and fingerprint of the rows that calibrated, chose and confirmed."""
    texts = prepared.inputs.texts
    used = {"calibration": texts.calibration, "validation": texts.validation, "test": texts.test}
    return {
        name: SplitRecord(rows=len(split), sha256=fingerprint(split.rows))
        for name, split in used.items()
    }


def probe(prepared: Prepared, choice: Choice) -> Probe:
    """Return a few texts with the answers that a server must reproduce before it takes traffic."""
    inputs, limit, plan = prepared.inputs, choice.limit(prepared), choice.point.plan
    words, count = prepared.words, len(prepared.probe)
    assert words is not None
    more = TEXTS_PER_CHOICE * count
    pool = probe_texts(prepared.data.test, words, more, prepared.subject.limit)
    texts = list(dict.fromkeys([*prepared.probe, *pool]))
    others = (
        inputs.backend.open(
            inputs.backend.emit(each, plan).to_bytes(), batch_invariant=plan.batch_invariant
        )
        for each in perturbed_sources(choice.source, seed=0)
    )
    model = inputs.backend.load(choice.folder)
    return make_probe(model, others, texts, words.arrays(texts, None, limit), count)


COPIED: Final = ("config.json",)
"""Files of the float package that the quantized one has too."""


def write_model_file(folder: Path, source: Source, plan: Plan, backend: Backend) -> bytes:
    """Write the model file and ``plan.json`` and return the model's bytes as read back."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / backend.model_file).write_bytes(backend.emit(source, plan).to_bytes())
    _write_json(folder / PLAN_FILE, backend.plan_file(plan, source.ranges))
    return (folder / backend.model_file).read_bytes()


def write_package(folder: Path, config: QuantizeConfig, prepared: Prepared, choice: Choice) -> None:
    """Write the files of the package.

    Raises:
        StageError: If the model file is not the one that was measured, or the test rows were not
            read.
    """
    write_files(folder, prepared, choice)
    write_evaluation(folder, config, prepared, choice)


def write_files(folder: Path, prepared: Prepared, choice: Choice) -> None:
    """Write what answers: model, plan, times of its runs, config and tokenizer.

    Raises:
        StageError: If the model file is not the one that was measured.
    """
    model = choice.folder / choice.model_file
    if sha256_file(model) != choice.measured.sha256:
        raise StageError(f"{model} changed after it was measured; start the job again")
    for name in (choice.model_file, PLAN_FILE):
        shutil.copyfile(choice.folder / name, folder / name)
    if choice.measured.runs is not None:
        _write_json(folder / DISPATCH_FILE, choice.measured.runs)
    for name in COPIED:
        shutil.copyfile(prepared.subject.package.path / name, folder / name)
    if prepared.processor is not None:
        prepared.processor.save(folder)
    copy_statement(prepared.subject.package.path, folder)


def write_evaluation(
    folder: Path, config: QuantizeConfig, prepared: Prepared, choice: Choice
) -> None:
    """Write the job and what was measured.

    Raises:
        StageError: If the test rows were not read.
    """
    (folder / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
    (folder / "evaluation").mkdir(exist_ok=True)
    _write_json(folder / PARETO_FILE, pareto_report(config, choice))
    _write_json(folder / REPORT_FILE, quantization_report(config, prepared, choice))
    if prepared.probe:
        _write_json(folder / PROBE_FILE, probe(prepared, choice))


def _write_json(path: Path, content: StrictModel) -> None:
    path.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
