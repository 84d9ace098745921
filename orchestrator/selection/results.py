"""Typed results of benchmark, selection and replay, as they are stored and read back.

Light on purpose (no torch, ray or pandas): the report and the demo read files through the classes
that wrote them.
"""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from orchestrator.config import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.selection.costs.results import Latency, Ledger, MethodCost
from orchestrator.selection.objective.results import CompressionCheck, ObjectiveResult
from orchestrator.selection.rungs import Rungs
from orchestrator.selection.salvage.results import Salvage

REPORT_NAME = "selection.json"


class JournalRow(StrictModel):
    """One finished rung of one trial, or its failure: a line of ``trials.jsonl``."""

    model_config = ConfigDict(allow_inf_nan=True)  # a diverged model scores NaN

    schema_version: Literal[1] = 1
    """Format of the line."""
    trial: str
    """Trial id; in a selection the model's id."""
    rung: int
    """Rung, 1-based: one epoch each, unless the first one is shorter."""
    validation: float | None
    """Score after this rung, in the unit of the metric; null when the trial failed."""
    goodness: float | None = None
    """The same on the scale of decisions, where larger is better; null: the score itself."""
    test: float | None = None
    """Final test score, after the last epoch only."""
    steps: int = 0
    """Optimizer steps of this rung."""
    epochs: float = 1.0
    """Part of an epoch that this rung is: 1, or less where the first rung is given in steps."""
    seconds: float = 0.0
    """Wall time of this rung."""
    evaluation_s: float = 0.0
    """Seconds of it that validation took; 0 in files of earlier releases."""
    startup_s: float = 0.0
    """Seconds before it: process, imports and loading; on the first row of a trial in a process."""
    slots: float = 1.0
    """Slots it occupied: its share of the cluster over what the config reserves for one trial."""
    phase: Literal["rung", "learning rate", "completion"] = "rung"
    """Use of the time; only rungs count in the halving. Completion: package after an early end."""
    learning_rate: float | None = None
    """Learning rate that was tried, or chosen, among several; null: there was one."""
    finished_at: float = 0.0
    """Unix time at which the state of this epoch was committed."""
    check: CompressionCheck | None = None
    """Figures of the objective, which `validation` contains then; null without one."""
    error: str = ""
    """Reason of the failure."""

    @property
    def paid(self) -> float:
        """Epochs that count as fine-tuning: those of a rung with a score."""
        return self.epochs if self.phase == "rung" and self.validation is not None else 0.0

    @property
    def decides(self) -> float | None:
        """The number that decisions compare, larger is better; None when the trial failed."""
        return self.validation if self.goodness is None else self.goodness


class EpochResult(JournalRow):
    """Report of a trial after one epoch: the rows of the journal and the validation loss."""

    loss: float | None = None
    """Validation loss; null where none was measured."""
    rates: tuple[JournalRow, ...] = ()
    """Learning rates that were tried in this epoch."""

    def journal_row(self) -> JournalRow:
        """The part that goes to the journal."""
        return JournalRow.model_validate(self.model_dump(exclude={"loss", "rates"}))


class ProxyScore(StrictModel):
    """Proxy scores of one model on the target."""

    model_config = ConfigDict(allow_inf_nan=True)  # dead features score NaN

    values: dict[str, float]
    """Proxy name to score."""
    floors: dict[str, float]
    """Proxy name to the score that permuted labels reach in 5 % of draws."""
    p_values: dict[str, float] = Field(default_factory=dict)
    """Proxy name to the share of permutations that score at least as much."""
    nulls: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Proxy name to its scores under permuted labels, the same permutations for every model of a
    target. The test over several models needs them; reports leave them out."""
    rows: int = 0
    """Training rows of the forward pass."""
    cached: bool = False
    """Whether an earlier forward pass on the same rows was read from disk."""
    seconds: float = 0.0
    """Wall time of the pass; 0 in files from before it was measured."""
    startup_s: float = 0.0
    """Seconds before it: process, imports and loading."""
    error: str = ""
    """Reason of the failure; values and floors are empty then."""


class Recalled(StrictModel):
    """Place of one candidate in the recall ranking."""

    model: str
    """Model id."""
    score: float
    """Score that it was ranked by; larger is better."""
    reason: str
    """Prior, cluster and proxy in words."""
    kept: bool
    """Whether it enters halving."""


class TargetSummary(StrictModel):
    """The data set that was selected for."""

    name: str
    """Name of the task."""
    labels: tuple[str, ...]
    """Label names in order."""
    rows: dict[str, int]
    """Split to number of rows."""
    kind: str = "classification"
    """Kind of the task."""
    metric: str = "accuracy"
    """Metric that decides; all scores of the report are in its unit."""
    higher_is_better: bool = True
    """Its direction."""


class RankedModel(StrictModel):
    """One candidate in the final ranking."""

    place: int
    """1 for the winner."""
    model: str
    """Model id."""
    status: Literal["winner", "finalist", "dropped", "not recalled", "failed", "excluded"]
    """Outcome of its selection."""
    reason: str
    """Reason, in words."""
    epochs: int | float
    """Epochs it was trained; a part of one where the first rung is given in steps."""
    validation: tuple[float, ...]
    """Validation score after each of its rungs."""
    recall_score: float | None
    """Score that recall ranked it by; null where it left the selection before."""
    trained_on_target: bool = False
    """Whether it declares, or is named after, the target; its validation may be inflated."""


class Finalist(StrictModel):
    """One model that was trained to the end, and became a package."""

    model: str
    """Model id."""
    package: str
    """Name of its package."""
    validation: float
    """Validation score after its last epoch."""
    test: float
    """Test score after its last epoch."""
    learning_rate: float | None = None
    """Learning rate that was chosen for it; null: none was tried."""


class BracketCell(StrictModel):
    """One model in one rung of the halving."""

    model: str
    """Model id."""
    rung: int
    """Rung, 1-based: one epoch each, unless `first_rung_steps` is set."""
    score: float
    """Validation score after it."""
    predicted: float | None
    """Predicted final test score; null without a predictor, and before the first whole epoch."""
    kept: bool
    """Whether it stays for the next rung."""


class Rung(StrictModel):
    """One complete rung."""

    rung: int
    """Rung, 1-based: one epoch each, unless `first_rung_steps` is set."""
    trained: tuple[str, ...]
    """Models trained in it, by id."""
    kept: tuple[str, ...]
    """Survivors, best first."""
    halfwidth: float | None
    """Half-width of the 90 % interval of the predictions; null with too little history."""
    policy: str = ""
    """Policy that chose the survivors: ``sh`` after a first rung in steps; empty after the last
    rung, in a replay, and in files of earlier releases."""


class Clusters(StrictModel):
    """Clusters of the candidates with history."""

    groups: tuple[tuple[str, ...], ...]
    """Members of each cluster."""
    representatives: tuple[str, ...]
    """Representatives of clusters of several models."""
    threshold: float
    """Distance at which the tree was cut."""
    silhouette: float
    """Mean silhouette of the cut."""


class Linkage(StrictModel):
    """Dendrogram of the candidates with history."""

    models: tuple[str, ...]
    """M leaves."""
    matrix: tuple[tuple[float, ...], ...]
    """``[M-1, 4]`` scipy linkage matrix."""


class SelectionReport(StrictModel):
    """Everything a selection found: ``selection.json`` of a run and of the winner's package."""

    schema_version: Literal[1] = 1
    """Format of the file."""
    target: TargetSummary
    """Data set that was selected for."""
    winner: str
    """Model id of the winner."""
    test_accuracy: float
    """Its final test score: accuracy, or `TargetSummary.metric`."""
    validation_accuracy: float
    """Its validation score after the last epoch."""
    majority_accuracy: float | None
    """Test accuracy of always answering the largest class; null where labels are not classes."""
    finalists: tuple[Finalist, ...] = ()
    """The packages that were made, the winner's first; empty in files of earlier releases."""
    policy: str
    """Halving policy that decided (with little history not the one asked for)."""
    tied_with_winner: tuple[str, ...] = ()
    """Candidates that a paired test on validation rows cannot tell apart from the winner."""
    ranking: tuple[RankedModel, ...]
    """All candidates, best first, with reasons."""
    bracket: tuple[BracketCell, ...]
    """One entry per (model, rung)."""
    rungs: tuple[Rung, ...]
    """One entry per rung."""
    recall: tuple[Recalled, ...]
    """Ranking of phase one."""
    clusters: Clusters | None
    """Null when no candidate has history."""
    linkage: Linkage | None
    """Null when no candidate has history."""
    proxies: dict[str, ProxyScore]
    """Model id to its proxy scores."""
    matrix: dict[str, dict[str, float | None]]
    """Model id to data set to final test score; null where not measured."""
    first_rung_steps: int | None = None
    """Optimizer steps of the first rung; null: it is an epoch."""
    ledger: Ledger
    """Cost."""
    comparison: tuple[MethodCost, ...] = ()
    """This cost first, then that of other methods; empty in files of earlier releases."""
    salvage: Salvage | None = None
    """Other candidates merged into the winner; null where none comes from its base."""
    learning_rates: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    """Model id to learning rate to the validation score that it reached; null: it failed."""
    objective: ObjectiveResult | None = None
    """Objective and the compressed finalists; null: candidates were chosen as they were trained."""
    latencies: dict[str, Latency] = Field(default_factory=dict)
    """Model id to its measured latency, where a constraint asked for it."""
    ended: str = ""
    """Reason to end before the last rung; empty otherwise."""
    warnings: tuple[str, ...]
    """Warnings to read before trusting the result."""

    def with_salvage(self, salvage: Salvage) -> "SelectionReport":
        """Add what was merged into the winner; its figures become those of the merged weights."""
        if salvage.test is None:
            return self.model_copy(update={"salvage": salvage})
        scores = {"validation": salvage.after, "test": salvage.test}
        finalists = (self.finalists[0].model_copy(update=scores), *self.finalists[1:])
        return self.model_copy(
            update={
                "salvage": salvage,
                "finalists": finalists,
                "validation_accuracy": salvage.after,
                "test_accuracy": salvage.test,
            }
        )

    @classmethod
    def read(cls, path: Path) -> "SelectionReport":
        """Read a stored report.

        Raises:
            IntegrityError: The file is not a selection report of this version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise IntegrityError(f"{path} is not a readable selection report: {error}") from error

    def rung_name(self, rung: int) -> str:
        """Name of a rung; where the first one is shorter, what was trained up to its end."""
        if self.first_rung_steps is None:
            return f"rung {rung}"
        return Rungs(self.ledger.epochs_each, self.first_rung_steps).name(rung)

    def in_full(self) -> dict[str, JsonValue]:
        """Ranking, ties, costs, finalists and an early end, for the result of the job."""
        names = {"ranking", "tied_with_winner", "comparison", "finalists", "ended"}
        names |= {"first_rung_steps"} if self.first_rung_steps is not None else set()
        full = self.model_dump(mode="json", include=names)
        return {**full, "ledger": [row.model_dump(mode="json") for row in self.ledger.rows]}

    def scores_of(self, test: float, validation: float) -> dict[str, JsonValue]:
        """A test and a validation score under the name of the metric."""
        metric = self.target.metric
        return {f"test_{metric}": test, f"validation_{metric}": validation}

    def figures(self) -> dict[str, JsonValue]:
        """The figures that fit one JSON line and a manifest."""
        figures: dict[str, JsonValue] = {"winner": self.winner, "policy": self.policy}
        figures |= self.scores_of(self.test_accuracy, self.validation_accuracy)
        if self.majority_accuracy is not None and self.target.metric == "accuracy":
            figures["majority_accuracy"] = self.majority_accuracy
        failed: dict[str, JsonValue] = {
            row.model: row.reason for row in self.ranking if row.status == "failed"
        }
        figures |= self.ledger.totals()
        return figures | ({"failed": failed} if failed else {})
