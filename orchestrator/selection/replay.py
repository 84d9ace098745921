"""Replay of the selection on stored curves: choice, regret and cost (``select replay``).

Leave-one-dataset-out: each target is a column of the matrix that the history does not contain.
A value of the target is revealed only when its epoch has been paid for; its test scores are read
once, after the choice, to compute the regret.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.errors import InputError
from orchestrator.selection.halving import Bracket, fit_to_budget
from orchestrator.selection.matrix.facts import is_tagged
from orchestrator.selection.matrix.history import History
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.policies.base import POLICIES, choose_policy
from orchestrator.selection.recall import RecallPlan, keep_best, rank_default
from orchestrator.selection.results import ReplayResult, ReplaySummary
from orchestrator.selection.score_predictor import ShrunkenPredictor


@dataclass(frozen=True)
class ReplayReport:
    """Results on all targets of one replay.

    Attributes:
        policy: The policy that was asked for.
        results: One per target.
        brute_force_epochs: Mean cost of training every model to the end.
    """

    policy: str
    results: tuple[ReplayResult, ...]
    brute_force_epochs: float

    def summary(self) -> ReplaySummary:
        """Mean and median regret, mean and largest cost, share of recalled best models."""
        regrets = [result.regret for result in self.results]
        epochs = [result.epochs for result in self.results]
        return ReplaySummary(
            targets=len(regrets),
            mean_regret=mean(regrets),
            median_regret=median(regrets),
            mean_epochs=mean(epochs),
            max_epochs=max(epochs),
            recall=mean(float(result.recall_regret <= 1e-12) for result in self.results),
            mean_recall_regret=mean(result.recall_regret for result in self.results),
            brute_force_epochs=self.brute_force_epochs,
        )

    def table(self) -> str:
        """Text table: one line per target, then the summary."""
        width = max(len(result.target) for result in self.results)
        lines = [f"{'target':{width}}  epochs  regret  recall regret  chosen (best)"]
        for result in self.results:
            chosen = "best" if result.regret == 0 else f"{result.chosen} ({result.best})"
            lines.append(
                f"{result.target:{width}}  {result.epochs:6d}  {result.regret:6.4f}  "
                f"{result.recall_regret:13.4f}  {chosen}"
            )
        found = self.summary()
        lines.append(
            f"{self.policy}: regret {found.mean_regret:.4f} mean, {found.median_regret:.4f} "
            f"median; epochs {found.mean_epochs:.1f} mean, {found.max_epochs} at most (brute "
            f"force {found.brute_force_epochs:.1f}); the best model was recalled for "
            f"{found.recall:.0%} of {found.targets}"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class ReplaySettings:
    """Settings of a replay.

    Attributes:
        policy: As in `SelectConfig.halving`.
        keep: Models to recall; None takes the default of the policy, 0 all.
        never_history: Columns left out of every history (other targets).
        budget: Hard limit of epochs.
        use_tags: Leave tagged cells out of the prior and add the tag effect.
        mean_score_recall: Recall by the plain mean score (the paper's Eq. 2 without a proxy).
    """

    policy: str = "default"
    keep: int | None = None
    never_history: tuple[str, ...] = ()
    budget: int | None = None
    use_tags: bool = False
    mean_score_recall: bool = False

    @property
    def pool(self) -> int:
        """Models to recall, 0 for all."""
        if self.keep is not None:
            return self.keep
        return int(POLICIES.component_class(self.policy).default_pool)


def replay(
    matrix: PerformanceMatrix, targets: Sequence[str], settings: ReplaySettings | None = None
) -> ReplayReport:
    """Replay the selection on each target in turn.

    Args:
        matrix: Curves of candidates on the targets and on the history sets.
        targets: Columns to select for; each is left out of its own history.
        settings: Default: the default policy without tags.

    Raises:
        InputError: A target is not a column of the matrix.
    """
    chosen = settings or ReplaySettings()
    unknown = sorted(set(targets) - set(matrix.dataset_names))
    if unknown or not targets:
        raise InputError(
            f"replay: target {unknown[0] if unknown else ''!r} is not in the matrix; it has "
            f"{', '.join(matrix.dataset_names)}."
        )
    everything = matrix.history()
    results, costs = [], []
    for target in targets:
        column = everything.curves[:, everything.datasets.index(target)]
        curves = {
            model: curve
            for model, curve in zip(everything.models, column, strict=True)
            if not np.isnan(curve).any()
        }
        history = matrix.without({target, *chosen.never_history}).history(matrix.stages)
        history = history if chosen.use_tags else history.without_tags()
        results.append(_replay_one(target, curves, history, chosen))
        costs.append(len(curves) * everything.stages)
    return ReplayReport(chosen.policy, tuple(results), float(np.mean(costs)))


def _replay_one(
    target: str, curves: dict[str, FloatArray], history: History, settings: ReplaySettings
) -> ReplayResult:
    tags = [m for m in curves if settings.use_tags and is_tagged(m, (), target)]
    decider = choose_policy(settings.policy, history, tags)
    predictor = None if settings.mean_score_recall else decider.predictor
    ranked = _ranked(sorted(curves), history, predictor)
    stages, wanted = history.stages, min(settings.pool or len(curves), len(curves))
    size = fit_to_budget(wanted, stages, decider.policy, settings.budget)
    pool = tuple(item.model for item in keep_best(ranked, size) if item.kept)
    bracket = Bracket(pool, stages, decider.policy)
    sizes = []
    while not bracket.finished:
        rung, training = bracket.rung, bracket.pool
        sizes.append(len(training))
        for model in training:
            bracket.record(model, rung, float(curves[model][rung - 1]))
    finals = {model: float(curve[-1]) for model, curve in curves.items()}
    best = max(finals, key=lambda model: (finals[model], model))
    return ReplayResult(
        target=target,
        chosen=bracket.winner,
        best=best,
        regret=finals[best] - finals[bracket.winner],
        recall_regret=finals[best] - max(finals[model] for model in pool),
        epochs=sum(sizes),
        pool_sizes=tuple(sizes),
    )


def _ranked(
    candidates: Sequence[str], history: History, predictor: ShrunkenPredictor | None
) -> dict[str, tuple[float, str]]:
    if predictor is not None:
        return rank_default(RecallPlan(tuple(candidates), None, {}, ()), predictor, {})
    means = np.nanmean(history.with_models(candidates).curves[:, :, -1], axis=1)
    return {m: (float(v), "mean score") for m, v in zip(candidates, means, strict=True)}


def register(subparsers: Any) -> None:
    """Add ``select replay`` to the command line."""
    select = subparsers.add_parser("select", help="`select replay`: selection on stored curves")
    verbs = select.add_subparsers(dest="select_verb", required=True)
    replay = verbs.add_parser("replay", help="replay the selection on a stored matrix")
    replay.add_argument("--matrix", required=True, help="performance matrix (.parquet or .csv)")
    replay.add_argument("--targets", help="data sets to select for, comma-separated (default: all)")
    replay.add_argument(
        "--never-history", default="", help="columns left out of every history, comma-separated"
    )
    replay.add_argument("--policy", choices=POLICIES.names(), default="default")
    replay.add_argument("--keep", type=int, help="models recalled; 0 for all")
    replay.add_argument("--budget", type=int, help="hard limit of epochs")
    replay.add_argument("--tags", action="store_true", help="use declared training sets")
    replay.add_argument("--json", action="store_true", help="print JSON instead of a table")
    replay.set_defaults(func=run_replay)


def run_replay(options: argparse.Namespace) -> int:
    """Replay, print, and return the exit code.

    Raises:
        InputError: The matrix or a target does not exist.
    """
    from orchestrator.selection.matrix.files import read_matrix

    if options.keep is not None and options.keep < 0:
        raise InputError(f"--keep: {options.keep} models cannot be recalled. Use 0 for all.")
    matrix = read_matrix(options.matrix)
    settings = ReplaySettings(
        policy=options.policy,
        keep=options.keep,
        never_history=tuple(_names(options.never_history)),
        budget=options.budget,
        use_tags=options.tags,
    )
    report = replay(matrix, _names(options.targets) or list(matrix.dataset_names), settings)
    if options.json:
        rows = [result.model_dump() for result in report.results]
        text = json.dumps({"summary": report.summary().model_dump(), "targets": rows}, indent=1)
    else:
        text = report.table()
    sys.stdout.write(text + "\n")
    return 0


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]
