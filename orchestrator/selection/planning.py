"""Planning of the select job: candidates, history, policy and recall in one typed plan. No Ray."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError, StageError
from orchestrator.selection.candidates import (
    dataset_facts,
    form_of_source,
    listed_candidates,
    model_facts,
    portable,
    protocol_of,
    require_usable,
    resolve_packages,
    sort_out,
    without_changed,
)
from orchestrator.selection.config import RecallConfig, SelectConfig
from orchestrator.selection.costs.constraints import within_constraints
from orchestrator.selection.costs.forecast import forecast_lines, planned_rungs, trial_lines
from orchestrator.selection.halving import fit_to_budget, rung_sizes
from orchestrator.selection.matrix.facts import is_tagged
from orchestrator.selection.matrix.files import read_matrix, write_matrix
from orchestrator.selection.matrix.history import History
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.objective.refusals import compressible, objective_lines
from orchestrator.selection.policies.base import Decider, Judge, choose_policy
from orchestrator.selection.policies.short_rung import in_rungs
from orchestrator.selection.recall import (
    RecallPlan,
    default_pool,
    plan_mode,
)
from orchestrator.selection.rungs import Rungs
from orchestrator.selection.scores.proxy_kinds import NO_PROXY, planned_proxies
from orchestrator.selection.target_rows import load_target, rows_at_hand
from orchestrator.selection.target_tasks import TargetTask, kind_of
from orchestrator.selection.trials.rates import extra_epochs
from orchestrator.storage.uris import absolute

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.storage import RunFolder
    from orchestrator.zoo import Package

logger = logging.getLogger(__name__)
MATRIX_NAME = "matrix.parquet"


@dataclass(frozen=True)
class SelectionPlan:
    """Everything that is decided before a cluster is needed.

    Attributes:
        task: The rows of the target.
        asked: What is asked about them, and the metric that decides.
        proxies: Proxy scores that apply to such a task.
        spec: Its rows; local paths are absolute.
        zoo: The zoo; a local path is absolute.
        packages: Candidates by reference.
        matrix: The performance matrix, empty without one.
        history: Its curves, with a row for every candidate.
        recall: Candidates that proxies look at, models without history, clusters of mode paper.
        to_score: Models to run forward on the target; none when every candidate is recalled.
        pool: How many candidates enter halving.
        widest: How many enter when neither history nor a proxy says anything about them.
        rungs: What is trained in each rung, by any candidate.
        decider: The policy between rungs (with little history not the one asked for).
        tagged: Candidates that declare training on the target.
        warnings: For the report.
        failed: Candidates that cannot be trained, with the reason of each.
    """

    task: "TaskData"
    asked: TargetTask
    proxies: tuple[str, ...]
    spec: DatasetSpec
    zoo: str
    packages: Mapping[str, "Package"]
    matrix: PerformanceMatrix
    history: History
    recall: RecallPlan
    to_score: tuple[str, ...]
    pool: int
    widest: int
    rungs: Rungs
    decider: Decider
    tagged: frozenset[str]
    warnings: tuple[str, ...]
    failed: Mapping[str, str]

    @property
    def judge(self) -> Judge:
        """Policy between rungs, plain halving after a first one in steps."""
        return in_rungs(self.decider.policy, self.rungs)

    def without(self, failed: Mapping[str, str], config: RecallConfig) -> "SelectionPlan":
        """Return the plan after some candidates turned out to be broken.

        The others are planned anew, so further ones may have to be run forward. As many candidates
        as before enter halving.

        Args:
            failed: The broken candidates, with the reason of each.
            config: Phase one.

        Raises:
            StageError: No candidate is left.
        """
        packages = {ref: each for ref, each in self.packages.items() if ref not in failed}
        if not packages:
            why = "; ".join(f"{ref}: {reason}" for ref, reason in failed.items())
            raise StageError(f"select: every candidate failed. {why}")
        recall = plan_mode(config, self.history, packages, self.decider.predictor, self.pool)
        return replace(
            self,
            packages=packages,
            recall=recall,
            to_score=recall.to_score if self.proxies and len(packages) > self.pool else (),
            pool=min(self.pool, len(packages)),
            widest=min(self.widest, len(packages)),
            failed={**self.failed, **failed},
        )


def plan_selection(config: SelectConfig, run: "RunFolder | None" = None) -> SelectionPlan:
    """Resolve target, candidates and history, and decide everything that needs no training.

    Args:
        config: The job.
        run: The run; its first plan pins candidates and matrix for the following ones.

    Raises:
        InputError: A package, the matrix or the target cannot be used, or the target is in the
            matrix.
    """
    from orchestrator.tasks.base import form_of
    from orchestrator.zoo import Zoo

    if run is not None:
        config = _pinned(config, run)
    zoo = Zoo(config.run.zoo)
    found, everything = resolve_packages(zoo, config.candidates), zoo.packages()
    matrix = _matrix(config, [package.ref for package in found])
    task, asked = load_target(config)
    proxies = planned_proxies(config.recall, asked)
    protocol = protocol_of(config.fine_tune, config.seed, config.precision)
    matrix.guard(task.name, dataset_facts(task, protocol, asked))
    found, excluded = within_constraints(found, config.constraints)
    usable, failed = compressible(sort_out(found, form_of(task.train)), config.objective, asked)
    require_usable(usable, failed, task.name)
    packages = {package.ref: package for package in usable}
    facts = {ref: model_facts(package, everything) for ref, package in packages.items()}
    matrix, warnings = without_changed(matrix, facts, protocol)
    history = _history(matrix, packages, config)
    tagged = frozenset(r for r, item in facts.items() if is_tagged(r, item.trained_on, task.name))
    informed = tagged if config.halving.use_tags else ()
    decider = _decider(config, history, informed)
    warnings += decider.changes(config.halving.policy, history)
    for warning in warnings:
        logger.warning("%s", warning)
    rungs = planned_rungs(config, len(task.train))
    pool, widest = _pool_sizes(config, len(packages), decider, rungs)
    recall = plan_mode(config.recall, history, packages, decider.predictor, pool)
    everyone = pool == len(packages) or config.recall.mode == "all"
    if not proxies and not everyone:
        warnings.append(NO_PROXY.format(kind=asked.kind))
    return SelectionPlan(
        task=task,
        asked=asked,
        proxies=proxies,
        spec=portable(config.target),
        zoo=absolute(config.run.zoo),
        packages=packages,
        matrix=matrix,
        history=history,
        recall=recall,
        to_score=() if everyone or not proxies else recall.to_score,
        pool=pool,
        widest=widest,
        rungs=rungs,
        decider=decider,
        tagged=tagged,
        warnings=tuple(warnings),
        failed={**failed, **excluded},
    )


def describe_selection(config: SelectConfig) -> str:
    """The plan in words; the rows of a small local target are counted, others not read.

    Raises:
        InputError: A package, the matrix or the target cannot be read, the target is in the
            matrix, or no package is usable.
    """
    from orchestrator.zoo import Zoo

    found = resolve_packages(Zoo(config.run.zoo), config.candidates)
    found, excluded = within_constraints(found, config.constraints)
    kind = kind_of(config.target, config.task)
    sorted_out = sort_out(found, form_of_source(config.target))
    packages, failed = compressible(sorted_out, config.objective, kind)
    failed = {**failed, **excluded}
    require_usable(packages, failed, config.target.source)
    matrix = _matrix(config, [package.ref for package in found])
    count = len(packages)
    history = _history(matrix, {p.ref: p for p in packages}, config)
    decider = _decider(config, history)
    rows = rows_at_hand(config, matrix)
    rungs = planned_rungs(config, None if rows is None else rows.train)
    pool, _ = _pool_sizes(config, count, decider, rungs)
    candidates = {package.ref: package for package in packages}
    recall = plan_mode(config.recall, history, candidates, decider.predictor, pool)
    passes = len(recall.to_score) if pool < count else 0
    sizes = rung_sizes(pool, rungs.count, in_rungs(decider.policy, rungs), config.finish_top)
    return "\n".join(
        [
            f"select {config.run.name}: target {config.target.source}, {count} candidates",
            *listed_candidates(packages, failed),
            f"  task: {kind}" + (f" by {config.metric}" if config.metric else ""),
            f"  history: {len(history.datasets)} data sets, policy {decider.name}",
            f"  recall: {passes} forward passes, keeps {pool} of {count}",
            f"  halving: {rungs.in_words(sizes)}; brute force {count * rungs.epochs}",
            *trial_lines(config.cluster),
            *forecast_lines(config, matrix, candidates, passes=passes, sizes=sizes, rows=rows),
            *objective_lines(config.objective, config.finish_top),
            f"  package: {config.package}",
        ]
    )


def _pinned(config: SelectConfig, run: "RunFolder") -> SelectConfig:
    """The config with candidates and matrix as they were when the run began.

    A resumed run derives its decisions again from the journal. Packages or columns that were added
    since then must not change them.
    """
    from orchestrator.zoo import Zoo

    copy = run.path / MATRIX_NAME
    inputs = run.done("inputs")
    if inputs is None:
        found = resolve_packages(Zoo(config.run.zoo), config.candidates)
        inputs = {"candidates": [package.ref for package in found]}
        if config.matrix is not None:
            write_matrix(read_matrix(config.matrix), copy)
        run.pin("inputs", inputs, files=[MATRIX_NAME])
    matrix = None if config.matrix is None else str(copy)
    return config.model_copy(update={"candidates": tuple(inputs["candidates"]), "matrix": matrix})


def _matrix(config: SelectConfig, candidates: Sequence[str]) -> PerformanceMatrix:
    """The matrix, with rows of imported tables under the references of the candidates."""
    if config.matrix is None:
        return PerformanceMatrix()
    matrix = read_matrix(config.matrix).with_references(candidates)
    if not set(candidates) & set(matrix.models):
        logger.warning(
            "%s has no row of any candidate, so that it says nothing of them; its rows are named "
            "%s, ...; candidates are named %s, ... (rows may leave the version out)",
            config.matrix, min(matrix.models, default="nothing"), min(candidates),
        )  # fmt: skip
    return matrix


def _history(
    matrix: PerformanceMatrix, packages: Mapping[str, "Package"], config: SelectConfig
) -> History:
    """Curves up to the shorter of history and fine-tuning, with a row for every candidate."""
    models, epochs = sorted({*matrix.models, *packages}), config.fine_tune.epochs
    if matrix.cells.empty:
        return History.empty(models, epochs)
    history = matrix.history(min(epochs, matrix.stages)).with_models(models)
    return history if config.halving.use_tags else history.without_tags()


def _decider(config: SelectConfig, history: History, tags: Iterable[str] = ()) -> Decider:
    """The policy; a small pool may take the epochs of the usual one.

    Not under a budget, nor after a first rung in steps: the job says that they are to be saved.
    """
    decider = choose_policy(config.halving.policy, history, tags)
    saving = config.budget.unit or config.halving.first_rung_steps
    return decider if saving else decider.with_usual_epochs(config.fine_tune.epochs)


def _pool_sizes(
    config: SelectConfig, candidates: int, decider: Decider, rungs: Rungs
) -> tuple[int, int]:
    """Candidates that are recalled as far as the budget goes, and without any information.

    Without information each candidate that is left out may be the best. Unless `recall.k` says how
    many, a budget is then used up, and without a budget twice as many are recalled.

    Args:
        config: The job.
        candidates: How many there are.
        decider: The policy.
        rungs: What is trained in each rung.

    Raises:
        InputError: There are fewer candidates than finalists, or the budget is too small.
    """
    if candidates < config.finish_top:
        raise InputError(
            f"finish_top: {config.finish_top} finalists, but {candidates} candidates. "
            "Name more candidates or finish fewer."
        )
    usual = default_pool(candidates, decider.policy.default_pool)
    wanted = (
        candidates if config.recall.mode == "all" else min(config.recall.k or usual, candidates)
    )
    budget, price, steps = config.budget.epochs, 1, rungs.steps_per_epoch
    shares, rates = rungs.shares(), len(config.halving.learning_rates or ())
    shares[0] += extra_epochs(rates, steps, rungs.first_steps)
    if config.budget.steps is not None and steps is not None:
        budget, price = config.budget.steps, steps
    widest = candidates if budget is not None else min(candidates, 2 * decider.policy.default_pool)
    pool, widest = (
        fit_to_budget(
            max(size, config.finish_top),
            rungs.count,
            in_rungs(decider.policy, rungs),
            budget,
            finalists=config.finish_top,
            unit=config.budget.unit or "epochs",
            price=price,
            shares=shares,
        )
        for size in (wanted, widest)
    )
    return pool, pool if config.recall.k is not None else max(pool, widest)
