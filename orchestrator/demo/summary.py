"""``summary.json`` of the demo: the figures of every chapter."""

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.continual.results import StreamFigures
from orchestrator.demo.heads import HeadScore
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.results import QuantizeSummary
from orchestrator.selection.costs.results import Ledger

MatrixRow = dict[str, str | float | None]
"""One row of a matrix of scores: the name of the row, then the scores by column."""


class PretrainedModel(StrictModel):
    """One candidate of the selection."""

    package: str
    """Reference of its package."""
    encoder: str
    """Type of its encoder."""
    target: str
    """Type of its first target."""
    engine: str
    """Engine and number of workers, in words."""
    steps: int
    """Optimizer steps."""
    loss: float
    """Validation loss in nats."""
    unigram_entropy: float | None = Field(alias="unigram entropy")
    """Loss of knowing only how often tokens occur."""
    seconds: float
    """Training time."""


class PretrainChapter(StrictModel):
    """Figures of pre-training."""

    documents: int
    """Documents of the corpus."""
    tokens: int
    """Tokens of the corpus."""
    models: tuple[PretrainedModel, ...]
    """The candidates."""


class BenchmarkChapter(StrictModel):
    """Figures of the performance matrix."""

    matrix: tuple[MatrixRow, ...]
    """Final test score of each model on each data set."""
    epochs: int
    """Fine-tuning epochs."""
    steps: int
    """Optimizer steps."""


class RankedRow(StrictModel):
    """One row of the ranking."""

    place: int
    """1 for the winner."""
    model: str
    """Reference of the package."""
    status: str
    """End of its selection."""
    epochs: int
    """Epochs it was trained."""
    reason: str
    """Reason, in words."""


class SelectChapter(Ledger):
    """Figures of the selection, with its cost."""

    ranking: tuple[RankedRow, ...]
    """All candidates, best first."""
    winner: str
    """The selected candidate."""
    package: str
    """The fine-tuned package."""
    test_accuracy: float
    """Test accuracy of the winner."""
    majority_accuracy: float
    """Test accuracy of always answering the largest class."""


class ContinualChapter(StreamFigures):
    """Figures of continual learning."""

    accuracy_matrix: tuple[MatrixRow, ...]
    """Accuracy on each task after learning each task."""
    package: str
    """The learned package."""


class PlannedUnit(StrictModel):
    """One GEMM of the served model."""

    unit: str
    """Its name."""
    kind: KindName
    """Its arithmetic."""


class QuantizeChapter(QuantizeSummary):
    """Figures of the quantization."""

    plan: tuple[PlannedUnit, ...]
    """Kind of every unit."""
    package: str
    """The INT8 package."""


class HeadsChapter(StrictModel):
    """Scores of every head after every stage."""

    scores: tuple[HeadScore, ...]
    """In the order of the stages."""
    max_drop: float
    """Largest fall with which a head counts as kept."""
    verdicts: tuple[str, ...]
    """Whether each head was kept, in words."""


class Answered(StrictModel):
    """One request, to read."""

    text: str
    """Beginning of the text."""
    answer: str
    """Label and score."""
    label: str
    """The right label."""


class ServeChapter(StrictModel):
    """Figures of the HTTP requests."""

    requests: int
    """Requests sent."""
    failures: int
    """Requests without an answer."""
    p50_ms: float
    """Median round trip."""
    p99_ms: float
    """99th percentile of the round trip."""
    accuracy: float
    """Share of answers with the right class."""
    answers: tuple[Answered, ...]
    """Some requests with their answers."""


class PointsLost(StrictModel):
    """Accuracy lost after the selection, in points (hundredths); negative is a gain."""

    continual: float
    """By the heads of the selected package, on average, while the stream was learned."""
    quantization: float
    """By all heads, on average, in INT8 against float."""
    total: float
    """Sum of both."""
    unmeasured: tuple[str, ...]
    """Heads of the selected package that no later stage has measured again."""

    @classmethod
    def of(cls, scores: Sequence[HeadScore], unmeasured: Sequence[str]) -> "PointsLost":
        """Average the falls that the suites of two stages state."""
        forgotten, rounded = (
            100 * fmean(falls or [0.0])
            for stage in ("continual", "quantize")
            for falls in [[s.drop for s in scores if s.stage == stage and s.drop is not None]]
        )
        return cls(
            continual=forgotten,
            quantization=rounded,
            total=forgotten + rounded,
            unmeasured=tuple(unmeasured),
        )

    def sentence(self) -> str:
        """Return the figures in words, and the heads that they leave out."""
        said = (
            f"accuracy lost after selection: {self.total:.1f} points ({self.continual:.1f} by "
            f"learning further tasks, {self.quantization:.1f} by INT8)"
        )
        return f"{said}; not measured: {', '.join(self.unmeasured)}" if self.unmeasured else said


class ResultChapter(StrictModel):
    """Figures of the whole demo."""

    seconds: float
    """Duration of this call."""
    points_lost: PointsLost
    """Accuracy lost after the selection."""


class DemoSummary(StrictModel):
    """All chapters."""

    schema_version: Literal[2] = 2
    """Version of this file's format: 2 has ``heads`` and the right labels of the answers."""
    pretrain: PretrainChapter
    """Corpus and candidates."""
    benchmark: BenchmarkChapter
    """Performance matrix."""
    select: SelectChapter
    """Selection."""
    continual: ContinualChapter
    """Continual learning."""
    quantize: QuantizeChapter
    """Quantization."""
    heads: HeadsChapter
    """Every head after every stage."""
    serve: ServeChapter
    """HTTP requests."""
    result: ResultChapter
    """Duration and losses."""
