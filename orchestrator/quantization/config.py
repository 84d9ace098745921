"""Settings of a quantization job. Imports neither torch, Ray nor ONNX."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from orchestrator.config import Name, StrictModel
from orchestrator.config.changes import PLACES, Change, Changes, Effect
from orchestrator.config.job import CommandConfig
from orchestrator.config.registry import Choice
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.quantization.registries import (
    BACKENDS,
    CALIBRATORS,
    BackendConfig,
    CalibratorConfig,
)
from orchestrator.zoo.gate import Promotion
from orchestrator.zoo.suite import SuiteConfig

IntegerKind = Literal["static_s7", "row_s7", "row_u8", "s7", "static_s8", "row_s8"]


WIDE: Final[tuple[IntegerKind, ...]] = ("static_s8", "row_s8", "row_u8")
NARROW: Final[tuple[IntegerKind, ...]] = ("static_s7", "row_s7", "row_u8")
"""Kinds of a job that names none, by what its host executes exactly."""


MIXED_PLANS: Final = 9


class BucketLimit(StrictModel):
    """Longest time of a call of one shape."""

    batch_size: int = Field(1, ge=1)
    """Texts per call."""
    length: int = Field(ge=2)
    """Tokens of each text."""
    max_ms: float = Field(gt=0)
    """Longest time of the call, in milliseconds of CPU time of one thread."""

    @property
    def name(self) -> str:
        """The shape in words, like ``8x128``."""
        return f"{self.batch_size}x{self.length}"


class GoalConfig(StrictModel):
    """Bounds of the INT8 package. Without a bound the knee of the measured front is taken.

    With a bound of quality the fastest plan within all bounds is taken, otherwise the one nearest
    to the float model. Validation rows decide; test rows confirm the one decision.
    """

    max_accuracy_drop: float | None = Field(None, ge=0, le=1)
    """Largest drop of the target's primary metric (accuracy 0.01: one point) against the float
    model, on labelled rows."""
    gates: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Largest drops of other metrics of the target, such as ``{recall.spam: 0.01}``, and of metrics
    of a slice of `data.slice_column`: ``{accuracy@german: 0.01}``."""
    min_cosine: float | None = Field(None, gt=0, lt=1)
    """Cosine to the float model's embedding that at least 90 % of texts reach; needs no labels."""
    min_agreement: float | None = Field(None, gt=0, lt=1)
    """Smallest share of answers that are those of the float model; needs no labels."""
    max_kl: float | None = Field(None, gt=0)
    """Largest mean divergence of the target's probabilities, in nats; needs no labels."""
    max_latency_ms: float | None = Field(None, gt=0)
    """Longest time of one call of `latency.batch_size` x `latency.length` tokens, one thread, this
    kind of machine."""
    buckets: tuple[BucketLimit, ...] = ()
    """Longest times of calls of other shapes; all of them hold."""
    max_bytes: int | None = Field(None, ge=1)
    """Largest size of the model file."""
    statistic: Literal["bound", "mean"] = "bound"
    """Statistic of the validation rows that a bound of quality holds: the one-sided 95 % bound (a
    test of non-inferiority), or the figure itself where there are few rows."""
    allow_float: bool = False
    """Accept a plan without any INT8 unit when it is the best answer."""

    @property
    def needs_labels(self) -> bool:
        """Whether a bound can only be measured on labelled rows."""
        return self.max_accuracy_drop is not None or bool(self.gates)

    @property
    def without_labels(self) -> bool:
        """Whether the bounds of quality are those that need no labels."""
        free = (self.min_cosine, self.min_agreement, self.max_kl)
        return not self.needs_labels and any(bound is not None for bound in free)

    @property
    def bounds_quality(self) -> bool:
        """Whether there is a bound of quality."""
        return self.needs_labels or self.without_labels

    @property
    def bounds_time(self) -> bool:
        """Whether there is a bound of time."""
        return self.max_latency_ms is not None or bool(self.buckets)

    @property
    def surrogate(self) -> Literal["kl", "cosine"]:
        """Distance from the float model that the search adds up over units."""
        only_vectors = self.without_labels and self.min_agreement is None and self.max_kl is None
        return "cosine" if only_vectors else "kl"

    def problems(self) -> Iterable[Problem]:
        """Bounds that no number of rows can show, and shapes that are given twice."""
        if self.statistic == "bound":
            drops = {"max_accuracy_drop": self.max_accuracy_drop}
            drops |= {f"gates.{name}": drop for name, drop in self.gates.items()}
            for name, drop in drops.items():
                if drop == 0:
                    yield Problem(
                        name, "0 cannot be shown by any number of rows. Set statistic: mean"
                    )
        names = [bucket.name for bucket in self.buckets]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield Problem("buckets", f"names the shape {name} twice. Name each once.")


class LatencyConfig(StrictModel):
    """Measurement of speed: interleaved rounds, medians of ratios to the float model."""

    batch_size: int = Field(1, ge=1)
    """Texts per call."""
    length: int | None = Field(None, ge=2)
    """Tokens of each text; null: the longest input of the job."""
    rounds: int = Field(15, ge=3)
    """Rounds in which every candidate is called."""
    calls: int = Field(1, ge=1)
    """Smallest number of calls of a candidate per round; calls shorter than 4 ms are repeated."""


class QuantizeConfig(CommandConfig):
    """Choose a kind of arithmetic for every GEMM of a package, and verify the choice."""

    verb: ClassVar[str] = "quantize"
    changes: ClassVar[Changes] = {**PLACES, "cache": Change(Effect.NOTHING, "a place")}

    package: str = Field("classifier", min_length=1)
    """Package to quantize: name, name@alias or name/v0001."""
    output: Name = "classifier-int8"
    """Name of the package that is committed."""
    target: str | None = None
    """Target whose primary metric counts; null: the package's default one."""
    data: DatasetSpec | None = None
    """Training rows calibrate, validation rows choose, test rows confirm the one choice. Goals
    without labels read texts (`files:texts.txt`). null: the data that the package's evaluation
    suite names for the target."""
    goal: GoalConfig = GoalConfig()
    """Bounds of the INT8 package."""
    method: Literal["front", "samp", "exhaustive"] = "front"
    """Plans that are measured. front: those of a knapsack over measured errors and times, by
    bisection up to the bound; samp: the sweep of the paper, by the number of leading layers, in
    every kind; exhaustive: every layer in every mode, for small models."""
    front_of: str | None = None
    """Quantized package whose measured plans are measured again on this host and chosen from, in
    place of a search (`quantize retime`)."""
    kinds: Annotated[tuple[IntegerKind, ...], Field(min_length=1)] | None = None
    """INT8 kinds to choose from; null: static_s8, row_s8 and row_u8 where the host executes signed
    weights of 8 bits exactly, else static_s7, row_s7 and row_u8. Activations have a calibrated
    range (static), one scale per token (row), or one scale per call (s7: these packages answer
    texts one by one, so that no answer depends on another text; LSTM layers have no other kind)."""
    equalize: bool = True
    """Shift and scale the channels of norm outputs, exactly in float, in all plans, where that
    brings the model with every unit in INT8 nearer to float on calibration rows."""
    tables: Literal["float", "int8", "auto"] = "float"
    """Storage of the word table, in every plan with INT8 units: float, or int8 with one scale per
    row, which is a quarter of the bytes. auto: the best plans are measured with both; where no plan
    with a float table is as small as `goal.max_bytes`, all have int8."""
    calibrator: Annotated[CalibratorConfig, Choice(CALIBRATORS)] = Field(
        # looked up when it is used, because the entries import modules that import this one
        default_factory=lambda: CALIBRATORS.config_class("max")()  # noqa: PLW0108
    )
    """Chooses the range of `static_s7` activations from the calibration rows."""
    backend: Annotated[BackendConfig, Choice(BACKENDS)] | None = None
    """Runtime that plans are measured on and the package is written for; null: `onnxruntime_cpu`,
    or `torch_cpu` where the package cannot be a graph."""
    calibration_rows: int = Field(96, ge=8)
    """Training rows on which activation ranges and the error of each unit are measured."""
    evaluation_rows: int = Field(512, ge=8)
    """Largest number of validation rows, and of test rows."""
    max_length: int | None = Field(None, ge=4)
    """Longest text in tokens; longer ones are cut. null: the limit of the package."""
    lengths: tuple[Annotated[int, Field(ge=4)], ...] = ()
    """Shorter limits to try, in tokens: a text is cut there, which makes a call faster and reads
    less. The fastest plans are measured with each; the package states the limit of the chosen
    one. Empty: only `max_length`."""
    batch_size: int = Field(16, ge=1)
    """Rows per evaluation call."""
    mixed_plans: int | None = Field(None, ge=0)
    """Largest number of plans of the predicted front that `method: front` measures in addition to
    the pure modes; null: 9."""
    latency: LatencyConfig = LatencyConfig()
    """Measurement of speed."""
    promotion: Promotion = Promotion()
    """Promises of the float package that the INT8 package must keep."""
    suite: SuiteConfig = SuiteConfig()
    """Rows that the package keeps to repeat the exam."""
    probe_texts: int = Field(4, ge=1)
    """Texts stored with their answers; a server compares them before it takes traffic."""
    cache: str | None = None
    """Folder for prepared data; null: the user's cache."""

    @property
    def allowed(self) -> tuple[IntegerKind, ...]:
        """INT8 kinds to choose from, on this host."""
        from orchestrator.quantization.backends.hosts import exact_kinds, this_host

        if self.kinds is not None:
            return self.kinds
        exact = exact_kinds(this_host())
        return WIDE if set(WIDE) <= set(exact) else NARROW

    @property
    def most_mixed(self) -> int:
        """Largest number of mixed plans that are measured."""
        return MIXED_PLANS if self.mixed_plans is None else self.mixed_plans

    def problems(self) -> Iterable[Problem]:
        """Kinds must differ; the INT8 runtime uses CPUs only; settings must act."""
        yield from self._unused()
        if self.kinds is not None and len(set(self.kinds)) != len(self.kinds):
            yield Problem("kinds", f"{list(self.kinds)} names a kind twice. Name each once.")
        if self.cluster.gpus_per_worker:
            yield Problem(
                "cluster.gpus_per_worker",
                f"{self.cluster.gpus_per_worker:g}: INT8 plans are measured on CPUs. Use 0.",
            )
        if len(set(self.lengths)) != len(self.lengths):
            yield Problem("lengths", f"{list(self.lengths)} names a length twice. Name each once.")
        if self.latency.length is not None and self.max_length is not None:
            limit = self.max_length
            if self.latency.length > limit:
                yield Problem(
                    "latency.length", f"{self.latency.length} is more than max_length ({limit})."
                )

    def _unused(self) -> Iterable[Problem]:
        """Settings that the others leave without effect."""
        other = "front_of" if self.front_of is not None else f"method {self.method}"
        if self.mixed_plans is not None and other != "method front":
            yield Problem(
                "mixed_plans", f"{self.mixed_plans} has no effect with {other}. Leave it out"
            )
        if self.front_of is not None and self.method != "front":
            yield Problem("method", f"{self.method} has no effect with front_of. Leave it out")
        static = self.kinds is None or any(kind.startswith("static") for kind in self.kinds)
        if not static and self.calibrator.type_name() != "max":
            yield Problem(
                "calibrator",
                f"{self.calibrator.type_name()} has no effect on {', '.join(self.kinds or ())}: "
                "only static kinds have a calibrated range. Leave it out",
            )
