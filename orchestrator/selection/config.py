"""Configs of `benchmark` and `select`. Imports neither torch, ray nor pandas."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from orchestrator.config import JobConfig, StrictModel, TrialClusterSection
from orchestrator.config.changes import PLACES, Change, Changes, Effect
from orchestrator.config.job import Name
from orchestrator.config.registry import NameOf
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.selection.costs.config import BudgetConfig, ConstraintsConfig, PricesConfig
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.policies.base import POLICIES
from orchestrator.selection.scores.base import PROXIES, unit_proxies
from orchestrator.selection.target_tasks import refusal
from orchestrator.selection.ties.tie_breaker import TiesConfig
from orchestrator.tasks.base import TaskConfig, TaskKind
from orchestrator.training.config import FineTuneConfig
from orchestrator.zoo.suite import SuiteConfig

CANDIDATE_KINDS = ("pretrained", "imported", "continual", "finetuned")
ALL = "all"


CHANGES: Changes = {
    **PLACES,
    "cluster.workers_per_trial": Change(Effect.NOISE, "the same sum of gradients in other parts"),
    "fine_tune.eval_batch_size": Change(Effect.ROUNDING, "speed of evaluations"),
}
"""Settings that may change when a run goes on; others decide the result."""


class BenchmarkConfig(JobConfig):
    """Fine-tune every package on every benchmark set once: the performance matrix and its curves.

    Trials run in parallel as far as the cluster's CPUs allow; ``cluster.workers`` is how many must
    fit at once. A cell that is in the matrix file already is not trained again.
    """

    changes: ClassVar[Changes] = CHANGES

    cluster: TrialClusterSection = TrialClusterSection()
    """The Ray cluster, and what each trial takes there."""
    packages: tuple[str, ...] = Field((ALL,), min_length=1)
    """Package references; `all`: pretrained and imported ones, `all:<kind>`: those of one kind."""
    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)
    """The benchmark sets; the later target of a selection must not be among them."""
    task: TaskKind | None = None
    """Kind of their task; null: read from each one's columns and labels."""
    metric: str | None = None
    """Metric that is recorded; null: the first one of the kind."""
    fine_tune: FineTuneConfig = FineTuneConfig()
    """Training of each cell; one validation score per epoch is recorded."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward passes of trials; weights stay fp32."""
    matrix: str = Field("matrix.parquet", pattern=r"\.parquet$")
    """File of the performance matrix; an existing one is completed."""

    def problems(self) -> Iterable[Problem]:
        """Check the package entries and that no benchmark set is listed twice."""
        yield from _entry_problems("packages", self.packages)
        yield from _task_problems(self.task)
        yield from _share_problems(self.fine_tune, self.cluster)
        sources = [spec.source for spec in self.datasets]
        for place, source in enumerate(sources):
            if source in sources[:place]:
                yield Problem(f"datasets.{place}.source", f"{source!r} is listed twice.")


class RecallConfig(StrictModel):
    """Phase one: the candidates that are worth training."""

    k: int | None = Field(None, ge=1)
    """Candidates to recall; null takes 10 (8 for policy fast), and at most 60 % of a small zoo."""
    mode: Literal["default", "paper", "all"] = "default"
    """default: history prior and proxies; paper: mean score x proxy; all: recall every one."""
    proxies: tuple[Annotated[str, NameOf(PROXIES)], ...] = Field(
        ("h_score", "knn", "logme"), min_length=1
    )
    """Scores of frozen features on the target's training rows; leep needs a source head."""
    features: Literal["last", "mean"] = "last"
    """Output of the encoder that proxies read: of the last layer, or the mean over all layers."""
    max_proxy_rows: int = Field(512, ge=16)
    """Training rows that a proxy reads at most."""
    score_top: int | None = Field(None, ge=0)
    """Mode default: candidates with history that proxies look at, the best by the prior; null: as
    many as are recalled. Candidates without history are always looked at."""
    cluster_threshold: float | None = Field(None, gt=0, lt=1)
    """Mode paper: distance up to which models form one cluster; null takes the cut of the best
    silhouette."""

    def problems(self) -> Iterable[Problem]:
        """Refuse settings that the mode does not read."""
        for name, modes in (
            ("k", ("default", "paper")),
            ("proxies", ("default", "paper")),
            ("features", ("default", "paper")),
            ("score_top", ("default",)),
            ("cluster_threshold", ("paper",)),
        ):
            value, usual = getattr(self, name), type(self).model_fields[name].default
            if self.mode not in modes and value != usual:
                yield Problem(
                    name,
                    f"{value!r} has no effect in mode {self.mode}; it belongs to mode "
                    f"{' or '.join(modes)}. Leave it out.",
                )


class HalvingConfig(StrictModel):
    """Phase two: successive halving with real training."""

    policy: Annotated[str, NameOf(POLICIES)] = "default"
    """default: shrunken predictor; fast: one epoch each; paper: k-means trend; sh: halving only."""
    learning_rates: tuple[PositiveFloat, ...] | None = Field(None, min_length=2)
    """Learning rates that each candidate tries on a quarter of its first epoch; the best goes on.
    null: that of fine_tune."""
    first_rung_steps: int | None = Field(None, ge=1)
    """Optimizer steps of a first rung that is shorter than an epoch; after it the better half
    stays, whatever the policy is. null: the first rung is an epoch."""
    use_tags: bool = True
    """Count a model that declares training on a data set as informed about it."""

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, data: Any) -> Any:
        if isinstance(data, dict) and "budget_epochs" in data:
            raise ValueError(
                f"budget_epochs is now budget.epochs. Write budget: {{epochs: "
                f"{data['budget_epochs']}}} at the top level."
            )
        return data


class SelectConfig(JobConfig):
    """Choose the package that suits the target best and fine-tune it.

    Trials run in parallel as far as the cluster's CPUs allow; ``cluster.workers`` is how many must
    fit at once.
    """

    changes: ClassVar[Changes] = CHANGES

    cluster: TrialClusterSection = TrialClusterSection()
    """The Ray cluster, and what each trial takes there."""
    target: DatasetSpec
    """The labelled data to select for; it must not be a column of the matrix."""
    task: TaskKind | None = None
    """Kind of its task; null: read from the columns and labels of the target."""
    metric: str | None = None
    """Metric that decides, such as macro_f1 or mae; null: the first one of the kind."""
    suite: SuiteConfig = SuiteConfig()
    """Rows that the package keeps to repeat its exam and to protect its task."""
    matrix: str | None = None
    """Performance matrix made by `benchmark`; null selects without any history."""
    candidates: tuple[str, ...] = Field((ALL,), min_length=1)
    """Package references; `all`: pretrained and imported ones, `all:<kind>`: those of one kind."""
    recall: RecallConfig = RecallConfig()
    """Phase one."""
    halving: HalvingConfig = HalvingConfig()
    """Phase two."""
    ties: TiesConfig = TiesConfig()
    """Candidates that validation rows cannot tell apart from the winner."""
    budget: BudgetConfig = BudgetConfig()
    """Hard limit of the cost: epochs, steps, seconds or money."""
    prices: PricesConfig = PricesConfig()
    """Prices of CPUs and GPUs, for the ledger and a budget in money."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    """Size and license that a candidate must keep to."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """Score that candidates are chosen by: as they are trained, or after compression."""
    finish_top: int = Field(1, ge=1)
    """Finalists that are trained to the end; each becomes a package, the winner is `package`."""
    salvage: bool = True
    """Merge other candidates of the winner's base into it where that validates better; costs
    evaluations only."""
    fine_tune: FineTuneConfig = FineTuneConfig()
    """Training of the candidates and the winner; use the benchmark's settings."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward passes of trials; weights stay fp32."""
    package: Name
    """Name of the package that the winner becomes."""

    def problems(self) -> Iterable[Problem]:
        """Check the package entries, the budget, and what the paper's mode needs."""
        yield from _entry_problems("candidates", self.candidates)
        yield from _task_problems(self.task)
        yield from _share_problems(self.fine_tune, self.cluster)
        budget, least = self.budget.epochs, self.finish_top * self.fine_tune.epochs
        models = "one model" if self.finish_top == 1 else f"{self.finish_top} models"
        if budget is not None and budget < least:
            yield Problem(
                "budget.epochs",
                f"{budget} cannot train {models} for fine_tune.epochs "
                f"({self.fine_tune.epochs}). Allow at least {least}.",
            )
        yield from self._price_problems()
        rates = self.halving.learning_rates or ()
        if len(set(rates)) < len(rates):
            yield Problem("halving.learning_rates", f"{list(rates)} has a value twice. Remove it.")
        if rates and self.fine_tune.learning_rate is not None:
            yield Problem(
                "fine_tune.learning_rate",
                f"{self.fine_tune.learning_rate:g} has no effect beside halving.learning_rates. "
                "Leave it out.",
            )
        if self.recall.k is not None and self.recall.k < self.finish_top:
            yield Problem(
                "finish_top",
                f"{self.finish_top} models cannot finish: recall.k is {self.recall.k}.",
            )
        for name, value in (
            ("recall.mode", self.recall.mode),
            ("halving.policy", self.halving.policy),
        ):
            if self.matrix is None and value == "paper":
                yield Problem(name, "paper needs a performance matrix. Set matrix.")
        if self.recall.mode == "paper" and not unit_proxies(self.recall.proxies):
            allowed = ", ".join(unit_proxies(PROXIES.names()))
            yield Problem("recall.proxies", f"mode paper multiplies by one of {allowed}. Add one.")

    def _price_problems(self) -> Iterable[Problem]:
        """Money needs the price of everything that a trial reserves."""
        prices, cluster = self.prices, self.cluster
        given = prices.cpu_hour is not None or prices.gpu_hour is not None
        if not given and prices.currency != PricesConfig().currency:
            yield Problem(
                "prices.currency", f"{prices.currency} has no effect without a price per hour."
            )
        if self.budget.currency is None and not given:
            return
        for name, reserved in (
            ("cpu", cluster.cpus_per_worker),
            ("gpu", cluster.gpus_per_worker),
        ):
            if reserved and getattr(prices, f"{name}_hour") is None:
                yield Problem(
                    f"prices.{name}_hour",
                    f"is missing, and cluster.{name}s_per_worker is {reserved:g}. Give it; 0 if "
                    "it costs nothing.",
                )
        reserved = cluster.cpus_per_worker * (prices.cpu_hour or 0)
        if (
            given
            and self.budget.currency
            and not reserved + cluster.gpus_per_worker * (prices.gpu_hour or 0)
        ):
            yield Problem(
                "budget.currency",
                "limits nothing: the prices of what a trial reserves are 0. Use budget.seconds.",
            )


def _task_problems(task: TaskConfig | None) -> Iterable[Problem]:
    if task is not None and (reason := refusal(task.type_name())) is not None:
        yield Problem("task", reason)


def _share_problems(fine_tune: FineTuneConfig, cluster: TrialClusterSection) -> Iterable[Problem]:
    """The workers of a trial take equal parts of a step's rows."""
    rows, workers = fine_tune.global_batch_size, cluster.workers_per_trial
    if rows % workers:
        yield Problem(
            "fine_tune.global_batch_size",
            f"{rows} does not divide over {workers} workers (cluster.workers_per_trial). Use "
            f"{max(workers, rows // workers * workers)}.",
        )


def _entry_problems(path: str, entries: tuple[str, ...]) -> Iterable[Problem]:
    for place, entry in enumerate(entries):
        kind = entry.partition(":")[2]
        if entry.startswith(f"{ALL}:") and kind not in CANDIDATE_KINDS:
            allowed = ", ".join(CANDIDATE_KINDS)
            yield Problem(f"{path}.{place}", f"{kind!r} is not a kind of package. Use {allowed}.")
