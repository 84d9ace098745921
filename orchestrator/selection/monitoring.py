"""Readings of a selection while it runs: `dashboards/selection.json` draws them. No Ray.

Every gauge has the label ``run``, the name of the run. An exporter never takes a reading back, so
that all statuses and phases are read every time, with 0 where there is nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from orchestrator.selection.costs.results import Latency, Phase
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
PHASES = tuple(phase for phase in get_args(Phase) if phase not in ("salvage", "idle"))
"""Uses of the slots that are known while trials run."""

Reading = tuple[str, Mapping[str, str], float]
"""Name of a gauge, its labels, and the value."""


@dataclass
class Monitor:
    """State of a selection at a moment.

    Attributes:
        run: Name of the run.
        candidates: Candidates that may still be chosen, those of the bracket included.
        failed: Candidates that left before the bracket, with the reason of each.
        proxies: Model to its scores.
        latencies: Model to its measured latency.
        bracket: The halving; None while candidates are screened.
        rows: Journal, as it grows.
        budget_used: Share of the budget; None without one.
    """

    run: str
    candidates: Sequence[str]
    failed: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, ProxyScore] = field(default_factory=dict)
    latencies: Mapping[str, Latency] = field(default_factory=dict)
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

    def _costs(self) -> dict[str, dict[str, float]]:
        """Epochs and seconds by phase, as the ledger will count them."""
        epochs, seconds = defaultdict[str, float](float), defaultdict[str, float](float)
        for score in self.proxies.values():
            seconds["proxies"] += score.seconds + score.startup_s
        for latency in self.latencies.values():
            seconds["latency"] += latency.seconds + latency.startup_s
        sizes, least = Counter[int](), 0
        if (bracket := self.bracket) is not None:
            sizes, least = Counter(rung for _, rung in bracket.observed), bracket.finalists
            sizes[bracket.rung] = len(bracket.pool)
        for row in self.rows:
            phase: str = row.phase
            if phase == "rung" and row.rung > 1 and sizes[row.rung] <= least:
                phase = "completion"
            epochs[phase] += row.paid
            seconds[phase] += (row.seconds + row.startup_s) * row.slots
        return {"orch_select_epochs": epochs, "orch_select_seconds": seconds}

    def _best(self) -> float | None:
        """The validation score of the best value so far, in the unit of the journal."""
        assert self.bracket is not None
        observed = self.bracket.observed
        if not observed:
            return None
        place = max(observed, key=lambda cell: observed[cell])
        found = [row.validation for row in self.rows if (row.trial, row.rung) == place]
        return next((value for value in reversed(found) if value is not None), observed[place])
