"""Typed figures of a package, from the measurements of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.modeling.package import stored_bytes
from orchestrator.quantization.allocator import Point, pareto
from orchestrator.quantization.backends.onnxruntime_cpu.session import MODEL_FILE
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import Prepared
from orchestrator.quantization.results import (
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
from orchestrator.quantization.sensitivity import predicted_error

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
    arrays = prepared.processor.arrays(prepared.probe, None, prepared.subject.limit)
    return Probe(
        schema_version=PROBE_SCHEMA,
        texts=tuple(prepared.probe),
        outputs={
            name: values.astype(float).tolist() for name, values in model.predict(arrays).items()
        },
        tolerance=PROBE_TOLERANCE,
    )
