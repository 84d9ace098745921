"""Readings of a selection while it runs: `dashboards/selection.json` draws them. No Ray.

Every gauge has the label ``run``, the name of the run. A reading is never taken back by an exporter,
so that each status and each phase that was once read is read again, with 0 where nothing is left.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from orchestrator.selection.costs.accounting import NOTHING, ledger_rows
from orchestrator.selection.costs.results import LedgerRow, Phase
from orchestrator.selection.halving import Bracket
from orchestrator.selection.results import JournalRow, ProxyScore

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "orch_select_candidates": ("Candidates by status.", ("run", "status")),
    "orch_select_failed": (
        "Candidates that failed or were left out, by reason.",
        ("run", "reason"),
    ),
    "orch_select_rung": ("Rung that is open, or the last one.", ("run",)),
    "orch_select_best_score": ("Best validation score so far.", ("run",)),
    "orch_select_epochs": ("Fine-tuning epochs by phase.", ("run", "phase")),
    "orch_select_seconds": ("Seconds of one slot by phase, start-up included.", ("run", "phase")),
    "orch_select_budget_used": ("Share of the budget used; none without one.", ("run",)),
}
"""Name to description and labels. Ray exports each with the prefix ``ray_``."""
STATUSES = ("screening", "waiting", "trained", "dropped", "not recalled", "failed", "finalist")
MAX_REASON = 80
PHASES: tuple[Phase, ...] = get_args(Phase)

Reading = tuple[str, Mapping[str, str], float]
"""Name of a gauge, its labels, and the value."""


@dataclass
class Monitor:
    """What a selection knows of itself at a moment.

    Attributes:
        run: Name of the run.
        candidates: Candidates that may still be chosen, those of the bracket included.
        failed: Candidates that left before the bracket, with the reason of each.
        proxies: Model to its scores.
        bracket: The halving; None while candidates are screened.
        rows: Journal, as it grows.
        budget_used: Share of the budget; None without one.
    """

    run: str
    candidates: Sequence[str]
    failed: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, ProxyScore] = field(default_factory=dict)
    bracket: Bracket | None = None
    rows: Sequence[JournalRow] = ()
    budget_used: float | None = None

    def readings(self) -> Iterator[Reading]:
        """Yield every gauge with its labels and value."""
        run = {"run": self.run}
        counts = self._statuses()
        for status in STATUSES:
            yield "orch_select_candidates", {**run, "status": status}, counts[status]
        broken = {**self.failed, **(self.bracket.failures if self.bracket else {})}
        reasons = Counter(reason[:MAX_REASON] for reason in broken.values())
        for reason, count in sorted(reasons.items()):
            yield "orch_select_failed", {**run, "reason": reason}, count
        for gauge, values in self._costs().items():
            for phase in PHASES:
                yield gauge, {**run, "phase": phase}, values[phase]
        if self.budget_used is not None:
            yield "orch_select_budget_used", run, self.budget_used
        if self.bracket is None:
            return
        yield "orch_select_rung", run, min(self.bracket.rung, self.bracket.stages)
        if (best := self._best()) is not None:
            yield "orch_select_best_score", run, best

    def _statuses(self) -> Counter[str]:
        bracket = self.bracket
        if bracket is None:
            return Counter(screening=len(self.candidates), failed=len(self.failed))
        out = {*bracket.dropped, *bracket.failures}
        alive = {*bracket.pool} - out
        waiting = {*bracket.waiting()}
        ends = "finalist" if bracket.finished else "trained"
        entered = {*alive, *out, *(model for model, _ in bracket.observed)}
        return Counter(
            {
                "waiting": len(waiting),
                ends: len(alive - waiting),
                "dropped": len(out - {*bracket.failures}),
                "not recalled": len({*self.candidates} - entered),
                "failed": len({*self.failed, *bracket.failures}),
            }
        )

    def _costs(self) -> dict[str, Counter[str]]:
        epochs, seconds = Counter[str](), Counter[str]()
        for row in self._ledger():
            epochs[row.phase] += row.epochs
            seconds[row.phase] += row.slot_seconds
        return {"orch_select_epochs": epochs, "orch_select_seconds": seconds}

    def _ledger(self) -> Sequence[LedgerRow]:
        if self.bracket is not None:
            return ledger_rows(self.proxies, self.rows, self.bracket, NOTHING)
        return [
            LedgerRow(phase="proxies", model=m, seconds=score.seconds, startup_s=score.startup_s)
            for m, score in self.proxies.items()
        ]

    def _best(self) -> float | None:
        """The validation score of the best value so far, in the unit of the journal."""
        assert self.bracket is not None
        observed = self.bracket.observed
        if not observed:
            return None
        place = max(observed, key=lambda cell: observed[cell])
        found = [row.validation for row in self.rows if (row.trial, row.rung) == place]
        return next((value for value in reversed(found) if value is not None), observed[place])
