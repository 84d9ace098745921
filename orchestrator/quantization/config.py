"""Settings of a quantization job. Imports neither torch, Ray nor ONNX."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.config import JobConfig, Name, StrictModel
from orchestrator.config.changes import PLACES, Change, Changes, Effect
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

IntegerKind = Literal["static_s7", "row_s7", "row_u8", "s7"]


class GoalConfig(StrictModel):
    """Bounds of the INT8 package. Without a bound the knee of the measured front is taken."""

    max_accuracy_drop: float | None = Field(None, ge=0, le=1)
    """Largest drop of accuracy (0.01: one point) against the float model: the fastest plan within
    it is taken. Holds on the validation rows and again on the test rows."""
    max_latency_ms: float | None = Field(None, gt=0)
    """Longest time of one call of `latency.batch_size` x `latency.length` tokens, one thread, this
    kind of machine: the most accurate plan within it is taken."""
    allow_float: bool = False
    """Accept a plan without any INT8 unit when it is the best answer."""


class LatencyConfig(StrictModel):
    """Measurement of speed: interleaved rounds, medians of ratios to the float model."""

    batch_size: int = Field(1, ge=1)
    """Texts per call."""
    length: int | None = Field(None, ge=2)
    """Tokens of each text; null: the longest input of the job."""
    rounds: int = Field(15, ge=3)
    """Rounds in which every candidate is called."""
    calls: int = Field(5, ge=1)
    """Smallest number of calls of a candidate per round."""


class QuantizeConfig(JobConfig):
    """Choose a kind of arithmetic for every GEMM of a fine-tuned package, and verify the choice."""

    changes: ClassVar[Changes] = {**PLACES, "cache": Change(Effect.NOTHING, "a place")}

    package: str = Field("classifier", min_length=1)
    """Package to quantize: name, name@alias or name/v0001."""
    output: Name = "classifier-int8"
    """Name of the package that is committed."""
    target: str | None = None
    """Classification target whose accuracy counts; null: the package's default one."""
    data: DatasetSpec = DatasetSpec(source="builtin:pydoc/library", max_rows=2400)
    """Labelled data: training rows calibrate, validation rows choose, test rows confirm."""
    goal: GoalConfig = GoalConfig()
    """Bounds of the INT8 package."""
    kinds: tuple[IntegerKind, ...] = Field(("static_s7", "row_s7", "row_u8"), min_length=1)
    """INT8 kinds to choose from: activations with a calibrated range (static_s7), with one scale
    per token (row_s7, row_u8: more exact weights), or with one scale per call (s7: these packages
    answer texts one by one, so that no answer depends on another text; LSTM layers have no other
    kind)."""
    calibrator: Annotated[CalibratorConfig, Choice(CALIBRATORS)] = Field(
        # looked up when it is used, because the entries import modules that import this one
        default_factory=lambda: CALIBRATORS.config_class("max")()  # noqa: PLW0108
    )
    """Chooses the range of `static_s7` activations from the calibration rows."""
    backend: Annotated[BackendConfig, Choice(BACKENDS)] = Field(
        default_factory=lambda: BACKENDS.config_class("onnxruntime_cpu")()  # noqa: PLW0108
    )
    """Runtime that plans are measured on and the package is written for."""
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
    mixed_plans: int = Field(6, ge=0)
    """Plans of the predicted front that are measured in addition to the pure modes."""
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

    def problems(self) -> Iterable[Problem]:
        """Kinds must differ; the INT8 runtime uses CPUs only."""
        if len(set(self.kinds)) != len(self.kinds):
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
