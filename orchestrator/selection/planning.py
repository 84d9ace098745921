"""The select job without its cluster: candidates, history, policy, recall."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.errors import InputError
from orchestrator.selection.benchmark import protocol_of
from orchestrator.selection.candidates import (
    dataset_facts,
    model_facts,
    resolve_packages,
    usable_for,
)
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.convergence import ShrunkenPredictor
from orchestrator.selection.halving import Bracket, fit_to_budget
from orchestrator.selection.journal import Journal
from orchestrator.selection.matrix import History, ModelFacts, PerformanceMatrix, is_tagged
from orchestrator.selection.matrix_io import read_matrix
from orchestrator.selection.policies import (
    DEFAULT_POOL,
    FAST_POOL,
    Policy,
    PolicyName,
    make_policy,
)
from orchestrator.selection.proxy import ProxyScore
from orchestrator.selection.recall import (
    Recalled,
    RecallPlan,
    default_pool,
    keep_best,
    plan_recall,
    rank_default,
    rank_paper,
)

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.zoo import Package

logger = logging.getLogger(__name__)
UNIT_PROXIES = ("leep", "nleep", "knn")
"""Proxies on a natural scale of [0, 1], for the paper's product; the first that all have."""


@dataclass(frozen=True)
class SelectionPlan:
    """Everything that is decided before a cluster is needed.

    Attributes:
        task: The target.
        packages: Candidates by reference.
        matrix: The performance matrix, empty without one.
        history: Its curves, with a row for every candidate.
        recall: Clusters, representatives, models without history.
        pool: How many candidates enter halving.
        policy: Who decides between rungs.
        policy_name: What the policy really is (little history falls back).
        predictor: Of final scores, None with little history.
        tagged: Candidates that declare training on the target.
        warnings: For the report.
    """

    task: "TaskData"
    packages: Mapping[str, "Package"]
    matrix: PerformanceMatrix
    history: History
    recall: RecallPlan
    pool: int
    policy: Policy
    policy_name: PolicyName
    predictor: ShrunkenPredictor | None
    tagged: frozenset[str]
    warnings: tuple[str, ...]

    @property
    def to_score(self) -> tuple[str, ...]:
        """Models to run forward on the target: none when every candidate is kept anyway."""
        return self.recall.to_score if self.pool < len(self.packages) else ()


def plan_selection(config: SelectConfig) -> SelectionPlan:
    """Resolve the candidates, the target and the history.

    Raises:
        InputError: A package, the matrix or the target cannot be used, or the target is in the
            matrix.
    """
    from orchestrator.data.rows.tasks import load_task
    from orchestrator.zoo import Zoo

    zoo = Zoo(config.run.zoo)
    found, everything = resolve_packages(zoo, config.candidates), zoo.packages()
    matrix = read_matrix(config.matrix) if config.matrix else PerformanceMatrix()
    task = load_task(config.target)
    protocol = protocol_of(config.fine_tune, config.seed)
    matrix.guard(task.name, dataset_facts(task, protocol))
    packages = {package.ref: package for package in usable_for(found, task)}
    facts = {ref: model_facts(package, everything) for ref, package in packages.items()}
    matrix, warnings = _trusted(matrix, facts, protocol)
    history = _history(matrix, packages, config)
    tagged = frozenset(r for r, item in facts.items() if is_tagged(r, item.trained_on, task.name))
    tags = tagged if config.halving.use_tags else frozenset[str]()
    policy, predictor, name = make_policy(config.halving.policy, history, tags)
    if name != config.halving.policy:
        sets = len(history.datasets)
        warnings.append(f"policy {config.halving.policy} became {name}: {sets} history sets")
    recall = plan_recall(history, list(packages), config.recall.cluster_threshold)
    pool = _pool(config, len(packages), policy, name)
    for warning in warnings:
        logger.warning("%s", warning)
    return SelectionPlan(
        task, packages, matrix, history, recall, pool, policy, name, predictor, tagged,
        tuple(warnings),
    )  # fmt: skip


def rank_candidates(
    plan: SelectionPlan, config: SelectConfig, proxies: Mapping[str, ProxyScore]
) -> list[Recalled]:
    """Phase one: rank all candidates and keep the pool."""
    if config.recall.mode == "paper":
        ranked = rank_paper(plan.recall, _unit_scores(plan, proxies))
    else:
        ranked = rank_default(plan.recall, plan.predictor, proxies)
    return keep_best(ranked, plan.pool)


def open_bracket(
    plan: SelectionPlan, recalled: Iterable[Recalled], epochs: int, journal: Journal
) -> Bracket:
    """The bracket of phase two, brought to where the journal ends."""
    pool = tuple(item.model for item in recalled if item.kept)
    bracket = Bracket(pool, epochs, plan.policy)
    for row in journal.rows:
        if row.validation is None:
            bracket.fail(row.trial, row.error)
        else:
            bracket.record(row.trial, row.rung, row.validation)
    return bracket


def describe_selection(config: SelectConfig, packages: list["Package"]) -> str:
    """What the job would do, without reading rows.

    Raises:
        InputError: The matrix cannot be read.
    """
    matrix = read_matrix(config.matrix) if config.matrix else PerformanceMatrix()
    epochs, count = config.fine_tune.epochs, len(packages)
    history = _history(matrix, {p.ref: p for p in packages}, config)
    policy, _, name = make_policy(config.halving.policy, history)
    pool = _pool(config, count, policy, name)
    plan = plan_recall(history, [p.ref for p in packages], config.recall.cluster_threshold)
    passes = len(plan.to_score) if pool < count else 0
    sizes = policy.sizes(pool, epochs)
    return "\n".join(
        [
            f"select {config.run.name}: target {config.target.source}, {count} candidates",
            *(f"  {package.ref} ({package.kind})" for package in packages),
            f"  history: {len(history.datasets)} data sets, policy {name}",
            f"  recall: {passes} forward passes, keeps {pool} of {count}",
            f"  halving: at most {' + '.join(map(str, sizes))} = {sum(sizes)} epochs; "
            f"brute force {count * epochs}",
            f"  package: {config.package}",
        ]
    )


def _history(
    matrix: PerformanceMatrix, packages: Mapping[str, "Package"], config: SelectConfig
) -> History:
    """Curves up to the shorter of history and fine-tuning, with a row for every candidate."""
    models = sorted({*matrix.models, *packages})
    if not matrix.stages:
        width = config.fine_tune.epochs + 1
        empty = np.full((len(models), 0, width), np.nan)
        return History(tuple(models), (), empty, np.zeros((len(models), 0), dtype=bool))
    history = matrix.history(min(config.fine_tune.epochs, matrix.stages)).with_models(models)
    if config.halving.use_tags:
        return history
    untagged = np.zeros_like(history.tagged)
    return History(history.models, history.datasets, history.curves, untagged)


def _trusted(
    matrix: PerformanceMatrix, facts: Mapping[str, ModelFacts], protocol: str
) -> tuple[PerformanceMatrix, list[str]]:
    """The matrix without rows of packages that have changed since, and what to warn about."""
    warnings = []
    changed = [
        ref
        for ref, item in facts.items()
        if ref in matrix.models
        and matrix.models[ref].manifest_sha256 not in ("", item.manifest_sha256)
    ]
    if changed:
        warnings.append(f"history ignored: {', '.join(changed)} changed since the benchmark")
    other = [n for n, d in matrix.datasets.items() if d.protocol and d.protocol != protocol]
    if other:
        warnings.append(
            f"fine_tune or seed differs from the benchmark's ({', '.join(sorted(other))}): its "
            "curves predict less well"
        )
    kept = {name: item for name, item in matrix.models.items() if name not in changed}
    cells = matrix.cells[~matrix.cells["model"].isin(changed)]
    return PerformanceMatrix(cells.reset_index(drop=True), kept, matrix.datasets), warnings


def _pool(config: SelectConfig, candidates: int, policy: Policy, name: PolicyName) -> int:
    at_most = FAST_POOL if name == "fast" else DEFAULT_POOL
    wanted = config.recall.k or default_pool(candidates, at_most)
    wanted = candidates if config.recall.mode == "all" else min(wanted, candidates)
    return fit_to_budget(wanted, config.fine_tune.epochs, policy, config.halving.budget_epochs)


def _unit_scores(plan: SelectionPlan, proxies: Mapping[str, ProxyScore]) -> dict[str, float]:
    """Scores in [0, 1] for the paper's product: ``exp`` of a LEEP, or a kNN accuracy."""
    if not plan.to_score:
        return dict.fromkeys(plan.recall.to_score, 1.0)
    for name in UNIT_PROXIES:
        if all(model in proxies and name in proxies[model].values for model in plan.to_score):
            scores = {model: proxies[model].values[name] for model in plan.to_score}
            return scores if name == "knn" else {m: float(np.exp(v)) for m, v in scores.items()}
    raise InputError(
        f"recall.mode paper: none of {', '.join(UNIT_PROXIES)} could be computed for all of "
        f"{', '.join(plan.to_score)}. Headless models need knn in recall.proxies."
    )
