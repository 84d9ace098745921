"""Replay of one method on stored curves: choice, ranking, rungs, ledger and regret.

A value of the target is revealed only when its epoch has been paid for; its test scores are read
once, after the choice, to compute the regret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from orchestrator.errors import InputError
from orchestrator.selection.costs.results import Ledger
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.ranking_text import ranked_models, ranking_lines
from orchestrator.selection.replay.methods import (
    THROUGH_TUNE,
    Played,
    ReplaySettings,
    Start,
    play,
    start,
)
from orchestrator.selection.replay.results import ReplayResult, ReplaySummary
from orchestrator.selection.replay.stored import StoredMatrix, StoredTarget
from orchestrator.selection.results import ProxyScore, RankedModel, Rung


@dataclass(frozen=True)
class ReplayReport:
    """Results on all targets of one replay.

    Attributes:
        results: One per target.
    """

    results: tuple[ReplayResult, ...]

    def summary(self) -> ReplaySummary:
        """Mean and median regret, mean and largest cost, share of recalled best models."""
        regrets = [r.regret for r in self.results if r.regret is not None]
        recalls = [r.recall_regret for r in self.results if r.recall_regret is not None]
        epochs = [result.ledger.total_epochs for result in self.results]
        return ReplaySummary(
            targets=len(self.results),
            mean_regret=mean(regrets) if regrets else None,
            median_regret=median(regrets) if regrets else None,
            mean_epochs=mean(epochs),
            max_epochs=max(epochs),
            recall=mean(float(regret <= 1e-12) for regret in recalls) if recalls else None,
            mean_recall_regret=mean(recalls) if recalls else None,
            brute_force_epochs=mean(r.ledger.brute_force_epochs for r in self.results),
        )

    def table(self) -> str:
        """Text table: one line per target, then the summary; of one target the ranking first."""
        width = max(len(result.target) for result in self.results)
        lines = [f"{'target':{width}}  epochs  regret  recall regret  chosen (best)"]
        for result in self.results:
            chosen = "best" if result.regret == 0 else f"{result.winner} ({result.best})"
            lines.append(
                f"{result.target:{width}}  {result.ledger.total_epochs:6g}  "
                f"{_shown(result.regret):>6}  {_shown(result.recall_regret):>13}  {chosen}"
            )
        found, first = self.summary(), self.results[0]
        name = first.method if first.policy is None else f"{first.method} ({first.policy})"
        share = "unknown" if found.recall is None else f"{found.recall:.0%}"
        lines.append(
            f"{name}: regret {_shown(found.mean_regret)} mean, {_shown(found.median_regret)} "
            f"median; epochs {found.mean_epochs:.1f} mean, {found.max_epochs:g} at most (brute "
            f"force {found.brute_force_epochs:.1f}); the best model was recalled for "
            f"{share} of {found.targets}"
        )
        if len(self.results) == 1:
            lines = [*ranking_lines(first.ranking), "", *lines]
        return "\n".join(lines)


def replay(
    matrix: PerformanceMatrix,
    targets: Sequence[str] = (),
    settings: ReplaySettings | None = None,
    proxies: Mapping[str, ProxyScore] | None = None,
) -> ReplayReport:
    """Replay a method on each target in turn.

    Args:
        matrix: Curves of candidates on the targets and on the history sets.
        targets: Columns to select for; each is left out of its own history. Default: all with
            curves.
        settings: Default: two_phase with the default policy, without tags.
        proxies: Stored proxy scores of the target; for a single target.

    Raises:
        InputError: A target is not a column of the matrix, is in the history under another name,
            or has no curves; or the settings do not fit the method.
    """
    chosen = settings or ReplaySettings()
    chosen.check(proxies)
    columns = StoredMatrix(matrix, chosen.never_history)
    twice = sorted({name for name in targets if list(targets).count(name) > 1})
    if twice:
        raise InputError(f"--targets: {twice[0]!r} is listed twice.")
    stored = [columns.target(name) for name in targets or columns.with_curves()]
    if proxies is not None and len(stored) > 1:
        raise InputError("replay: proxy scores belong to one target; name it.")
    begun = [start(each, chosen, proxies) for each in stored]
    if chosen.method in THROUGH_TUNE:
        from orchestrator.selection.replay.tune_runner import play_through_tune

        played = play_through_tune(stored, begun, chosen)
    else:
        played = [_of_bracket(each, first) for each, first in zip(stored, begun, strict=True)]
    return ReplayReport(
        tuple(
            _result(each, chosen, first, done)
            for each, first, done in zip(stored, begun, played, strict=True)
        )
    )


def _of_bracket(target: StoredTarget, begun: Start) -> Played:
    bracket = play(target, begun)
    return Played(
        winner=bracket.winner,
        observed=bracket.observed,
        kept=[verdict.kept for verdict in bracket.verdicts],
        reasons={model: reason for model, (_, reason) in bracket.dropped.items()},
        failures=bracket.failures,
    )


def _result(
    target: StoredTarget, settings: ReplaySettings, begun: Start, played: Played
) -> ReplayResult:
    epochs, winner, pool = len(played.observed), played.winner, begun.pool
    rungs = range(1, target.stages + 1)
    # The only place that reads test scores of the target; the choice is made.
    finals = {model: target.finals[model] for model in target.candidates if model in target.finals}
    best = max(finals, key=lambda model: (finals[model], model), default=None)
    regret = recall_regret = None
    warnings = [*begun.warnings, *_gaps(target)]
    if best is not None and winner in finals:
        regret = finals[best] - finals[winner]
        recall_regret = finals[best] - max(finals[model] for model in pool if model in finals)
    else:
        warnings.append(f"no final test score of {winner} on {target.name}: the regret is unknown")
    flagged = sorted(target.tagged & set(target.candidates))
    if flagged:
        warnings.append(f"trained on {target.name}, or named after it: {', '.join(flagged)}")
    return ReplayResult(
        target=target.name,
        method=settings.method,
        policy=begun.policy_name,
        seed=settings.seed,
        winner=winner,
        ranking=_ranking(target, begun, played),
        rungs=tuple(
            Rung(rung=rung, trained=played.trained(rung), kept=tuple(kept), halfwidth=None)
            for rung, kept in zip(rungs, played.kept, strict=False)
        ),
        ledger=Ledger.of(
            candidates=len(target.candidates),
            epochs_each=target.stages,
            epochs=epochs,
            proxy_passes=begun.passes,
        ),
        best=best,
        regret=regret,
        recall_regret=recall_regret,
        epochs=epochs,
        pool_sizes=tuple(len(played.trained(rung)) for rung in rungs),
        warnings=tuple(warnings),
    )


def _ranking(target: StoredTarget, begun: Start, played: Played) -> tuple[RankedModel, ...]:
    """Winner first, then by epochs trained and the last validation score; failed models last."""
    entries = []
    for place, item in enumerate(begun.recalled):
        curve: list[float] = []
        while (item.model, len(curve) + 1) in played.observed:
            curve.append(played.observed[item.model, len(curve) + 1])
        reason, group = played.reasons.get(item.model, item.reason), 1
        status = "dropped" if item.kept else "not recalled"
        if item.model == played.winner:
            status, reason, group = "winner", "best of the last rung", 0
        elif item.model in played.failures:
            status, reason, group = "failed", played.failures[item.model], 2
        order = (group, -len(curve), -(curve[-1] if curve else 0.0), place)
        entries.append((order, item, status, reason, curve))
    return ranked_models(entries, target.tagged)


def _gaps(target: StoredTarget) -> list[str]:
    return [
        f"{model} has no complete curve on {target.name}: {reason}"
        for model, reason in sorted(target.gaps.items())
    ]


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
