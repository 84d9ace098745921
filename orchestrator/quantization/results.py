"""Figures of a quantization job, as they are stored and passed between processes.

Needs neither torch, Ray nor ONNX, so that the report and the demo read a package's evaluation with
the classes that wrote it. Names of fields are the keys on disk.
"""

from typing import Final

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.inference.dispatch import RunTimes
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.kinds import KindName, TableKind
from orchestrator.quantization.measured_results import (
    Accuracy,
    Closeness,
    Divergence,
    Paired,
    PlanFigures,
)
from orchestrator.quantization.plans import PlanFile

SCHEMA_VERSION: Final = 1
"""Version of the files in ``evaluation/``; earlier releases wrote none, which means version 1."""
PARETO_FILE: Final = "evaluation/pareto.json"
REPORT_FILE: Final = "evaluation/quantization.json"
PROBE_FILE: Final = "evaluation/probe.json"


class Latency(StrictModel):
    """Time of one call: CPU and wall milliseconds, and the ratio of CPU time to the reference."""

    cpu_ms: float
    """CPU time of the calling thread, median over rounds."""
    wall_ms: float
    """Wall time, median over rounds."""
    ratio: float
    """Median over rounds of CPU time divided by that of the reference in the same round."""
    spread: tuple[float, float]
    """Smallest and largest ratio over the rounds."""
    interval: tuple[float, float] | None = None
    """95 % interval of the median ratio; null in files of earlier releases."""

    @property
    def range(self) -> tuple[float, float]:
        """The interval, or the spread where there is none."""
        return self.spread if self.interval is None else self.interval


class DeployedLatency(StrictModel):
    """Latencies of the three forms of the model, measured in the same rounds."""

    torch: Latency
    """The package's own model in torch, eager."""
    int8: Latency
    """The deployed model."""
    float: Latency
    """The float graph, which is the reference of the ratios."""


class ExecutedUnit(StrictModel):
    """One GEMM unit as the runtime executed it."""

    unit: str
    """Name of the unit."""
    kind: KindName
    """Arithmetic that the executed node was emitted for."""
    operator: str
    """Operator that was executed."""
    weight_type: str
    """Element type of its weight, as the runtime names it."""


class Audit(StrictModel):
    """Operators that one call of a session executed."""

    integer_units: int
    """Number of units whose executed operator is an integer GEMM."""
    float_units: int
    """Number of the other units."""
    units: tuple[ExecutedUnit, ...]
    """Every executed unit, in order of execution."""
    operators: dict[str, int] = Field(default_factory=dict)
    """Number of executions of each operator."""
    unnamed_integer: tuple[str, ...] = Field((), exclude=True)
    """Integer GEMM nodes that belong to no unit; always empty in a committed package."""


class MeasuredArtifact(StrictModel):
    """Everything that was measured of the file that is about to be committed."""

    sha256: str
    """Hash of the model file."""
    length: int
    """Tokens of each text in the timed batch, before a limit of the plan."""
    audit: Audit
    """Operators that the runtime executed."""
    validation: PlanFigures
    """Figures on the validation rows."""
    test: PlanFigures | None = None
    """Figures on the test rows; null until the one plan is chosen."""
    float_graph_difference: float
    """Largest difference of an output between torch and the float graph."""
    latency: DeployedLatency
    """Times of torch, the float graph and the deployed model."""
    buckets: dict[str, Latency] = Field(default_factory=dict)
    """Times of the deployed model at other shapes, by their name."""
    runs: RunTimes | None = None
    """Times that decide which texts share a run; null: texts run alone, or are no texts."""


class ParetoPoint(StrictModel):
    """One measured plan. Accuracy and error are those on validation rows."""

    name: str
    """Name of the plan."""
    digest: str
    """Short hash of the plan's INT8 units and their kinds."""
    integer_units: int
    """Number of INT8 units."""
    units: int
    """Number of units."""
    accuracy: float | None = None
    """Primary metric of the plan; null: without labels."""
    accuracy_drop: float | None = None
    """Loss of the primary metric against the float graph."""
    paired: Paired | None = None
    """The full comparison with the float graph."""
    gates: dict[str, Paired] = Field(default_factory=dict)
    """Other metrics that the goal bounds."""
    closeness: Closeness | None = None
    """Answers against those of the float graph, where the goal bounds them."""
    error: Divergence
    """Distance from the float graph."""
    latency: Latency
    """Time against the float graph."""
    buckets: dict[str, Latency] = Field(default_factory=dict)
    """Time at the other shapes of the goal."""
    plan: dict[str, KindName]
    """Kind of every unit."""
    tables: TableKind = "float"
    """Storage of the word table."""
    latency_ms: float
    """CPU time of one call."""
    size: int | None = None
    """Bytes of the model file."""
    length: int | None = None
    """Tokens at which texts are cut; null: at the limit of the job."""
    predicted_kl: float | None = None
    """Sum of the errors of the single units; null if one of them was not measured."""
    predicted_ratio: float | None = None
    """Time that the role times add up to; null if one of them was not measured."""
    predicted_flips: float | None = None
    """Share of answers that margins predict to change, in the texts at the job's limit; null: no
    unit was measured alone, or the answers are not one of several."""
    stopped: bool = False
    """Whether fewer rows were answered, because the interval excluded a bound of the goal."""
    on_front: bool
    """Whether no other measured plan is better in both time and output error."""
    chosen: bool
    """Whether this plan was deployed."""


class ParetoReport(StrictModel):
    """``evaluation/pareto.json``: every measured plan."""

    schema_version: int = Field(SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this file's format."""
    goal: GoalConfig
    """Bounds of the job."""
    split: str
    """Rows that accuracies were measured on."""
    latency_shape: tuple[int, int]
    """Texts, and tokens of each text, in the timed batch."""
    points: tuple[ParetoPoint, ...]
    """The measured plans."""


class Runtime(StrictModel):
    """The library that executed the model."""

    name: str
    """Name of the library."""
    version: str
    """Its version."""
    threads: int
    """Threads within one call."""


class DeployedPlan(PlanFile):
    """The plan of the package, with its name; ranges are in ``plan.json`` only."""

    name: str
    """Name of the plan among the measured ones."""


class ReportedLatency(DeployedLatency):
    """Latencies with the conditions of the measurement."""

    shape: tuple[int, int]
    """Texts, and tokens of each text, in the timed batch."""
    clock: str
    """The clock, in words."""


class SplitRecord(StrictModel):
    """Rows of one split that were used."""

    rows: int
    """Number of rows."""
    sha256: str
    """SHA-256 over the rows in their order."""


class QuantizationReport(StrictModel):
    """``evaluation/quantization.json``: before and after, the audit, and the measured prices."""

    schema_version: int = Field(SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this file's format."""
    source: str
    """Reference of the float package."""
    target: str | None
    """Target whose primary metric counts; null: the package answers with embeddings only."""
    method: str = "front"
    """Method of the search."""
    runtime: Runtime
    """Library that executed the model."""
    goal: GoalConfig
    """Bounds of the job."""
    plan: DeployedPlan
    """The deployed plan."""
    max_length: int | None = None
    """Tokens at which the deployed model's texts are cut; null (also in files of earlier releases):
    at the limit of the job."""
    artefact_sha256: str
    """Hash of the model file."""
    accuracy: Accuracy | None = None
    """Primary metric on validation and test rows; null: without labels."""
    gates: dict[str, dict[str, Paired]] = Field(default_factory=dict)
    """Other metrics that the goal bounds, by split."""
    closeness: dict[str, Closeness] = Field(default_factory=dict)
    """Answers against those of the float model, by split, where the goal bounds them."""
    splits: dict[str, SplitRecord] = Field(default_factory=dict)
    """The rows that calibrated, chose and confirmed; empty in files of earlier releases."""
    latency: ReportedLatency
    """Times of torch, the float graph and the deployed model."""
    buckets: dict[str, Latency] = Field(default_factory=dict)
    """Times of the deployed model at the other shapes of the goal, like ``8x128``."""
    float_graph_difference: float
    """Largest difference of a logit between torch and the float graph."""
    sizes: dict[str, int]
    """Bytes of the deployed model, the float graph and the source parameters."""
    audit: Audit
    """Operators that the runtime executed."""
    sensitivity: dict[str, Divergence]
    """Error of each unit alone, by ``<unit>@<kind>``."""
    role_latency: dict[str, Latency]
    """Time with each role alone in INT8, by ``<role>@<kind>``."""


class Probe(StrictModel):
    """``evaluation/probe.json``: texts with the answers that a server must reproduce."""

    schema_version: int
    """Version of this file's format."""
    texts: tuple[str, ...]
    """The texts."""
    outputs: dict[str, list[list[float] | list[list[float]]]]
    """Answers of each text by output name: [K], [D], or [S, K] without padding."""
    tolerance: float
    """Largest difference that a server accepts, relative to 1 + the answer's magnitude."""


class QuantizeSummary(StrictModel):
    """Figures of the manifest: of the committed file, on test rows unless named otherwise."""

    target: str | None = None
    """Target whose primary metric counts; null: the package answers with embeddings only."""
    accuracy: float | None = None
    """Primary metric of the INT8 model; null: without labels."""
    accuracy_float: float | None = None
    """Primary metric of the float model."""
    accuracy_drop: float | None = None
    """Loss of the INT8 model."""
    accuracy_drop_validation: float | None = None
    """Loss on validation rows."""
    p_value: float | None = None
    """Exact McNemar test of the drop."""
    cosine: float | None = None
    """Cosine to the float model's embedding that 90 % of the texts reach; null: not bounded."""
    agreement: float | None = None
    """Share of answers that are those of the float model; null: not bounded."""
    kl: float | None = None
    """Mean divergence of the target's probabilities; null: not bounded."""
    integer_units: int
    """GEMMs executed in integers."""
    units: int
    """GEMMs of the model."""
    plan_name: str
    """Name of the deployed plan."""
    latency_ms: float
    """CPU time of one call of the INT8 model."""
    latency_float_ms: float
    """CPU time of one call of the float graph."""
    latency_torch_ms: float
    """CPU time of one call in torch."""
    speedup_over_float: float
    """Float graph over INT8."""
    speedup_over_torch: float
    """Torch over INT8."""
    bytes: int
    """Size of the INT8 model."""
    bytes_float: int
    """Size of the float graph."""


class QuantizeMetrics(QuantizeSummary):
    """Metrics of the job's result line: the summary and the plan."""

    plan: dict[str, KindName]
    """Kind of every unit."""
