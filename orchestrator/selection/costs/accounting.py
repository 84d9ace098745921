"""The ledger of a selection from everything that its run has stored."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.selection.costs.clock import Attempt, money_of
from orchestrator.selection.costs.results import Latency, Ledger, LedgerRow
from orchestrator.selection.halving import Bracket
from orchestrator.selection.objective.results import CompressedFinalist
from orchestrator.selection.results import JournalRow, ProxyScore
from orchestrator.selection.rungs import Rungs, whole
from orchestrator.selection.salvage.results import Salvage

if TYPE_CHECKING:
    from orchestrator.selection.planning import SelectionPlan


@dataclass(frozen=True)
class Spent:
    """Costs that neither proxies nor trials report.

    Attributes:
        attempts: Tries of the run; none where nobody measured them.
        latencies: Model to its measured latency, where a constraint asked for it.
        salvage: Merges into the winner that were measured; None: there were none.
        compressed: Finalists that were compressed in full.
    """

    attempts: Sequence[Attempt] = ()
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    salvage: Salvage | None = None
    compressed: Sequence[CompressedFinalist] = ()


NOTHING = Spent()


def ledger_of(
    plan: "SelectionPlan",
    proxies: Mapping[str, ProxyScore],
    bracket: Bracket,
    journal: Sequence[JournalRow],
    spent: Spent,
) -> Ledger:
    """Add up a finished selection.

    Args:
        plan: Candidates and target.
        proxies: Model to its scores.
        bracket: Finished.
        journal: Its rows.
        spent: Other costs.
    """
    attempts = spent.attempts
    paid = [row for row in journal if row.validation is not None and row.phase == "rung"]
    passed = [score for score in proxies.values() if not score.error and not score.cached]
    read = sum(score.rows for score in passed)
    ledger = Ledger.of(
        candidates=len(plan.packages),
        epochs_each=plan.rungs.epochs,
        epochs=whole(math.fsum(row.paid for row in paid)),
        steps=sum(row.steps for row in journal),
        steps_per_epoch=_steps_per_epoch(plan.rungs, paid, journal),
        proxy_passes=len(passed),
        proxy_share=read / (len(passed) * len(plan.task.train)) if passed else 0.0,
    )
    wall = sum(attempt.seconds for attempt in attempts)
    held = sum(attempt.seconds * attempt.slots for attempt in attempts)
    money = money_of(attempts) if attempts else None
    return ledger.model_copy(
        update={
            "wall_s": wall,
            "slots": held / wall if wall else 0.0,
            "money": money,
            "currency": attempts[-1].currency if attempts and money is not None else "",
            "rows": ledger_rows(proxies, journal, bracket, spent),
        }
    )


def _steps_per_epoch(
    rungs: Rungs, paid: Iterable[JournalRow], journal: Sequence[JournalRow]
) -> int:
    """Optimizer steps of the longest epoch; as planned where the first epoch is cut."""
    if rungs.first_steps is not None and rungs.steps_per_epoch is not None:
        return rungs.steps_per_epoch
    return max(row.steps + _chosen_steps(row, journal) for row in paid)


def _chosen_steps(row: JournalRow, journal: Sequence[JournalRow]) -> int:
    """Steps of a first epoch that were taken when its learning rate was tried."""
    if row.rung > 1 or row.learning_rate is None:
        return 0
    tried = (r for r in journal if r.phase == "learning rate" and r.trial == row.trial)
    return next((r.steps for r in tried if r.learning_rate == row.learning_rate), 0)


def ledger_rows(
    proxies: Mapping[str, ProxyScore],
    journal: Sequence[JournalRow],
    bracket: Bracket,
    spent: Spent,
) -> tuple[LedgerRow, ...]:
    """Return one row per model and phase, and the idle slots.

    Idle is what is left of wall time x slots: slots that waited for a rung to close, starts of
    processes, and work that a killed try lost.

    Args:
        proxies: Model to its scores, with their time.
        journal: Finished epochs.
        bracket: Finished; rungs that train no more models than its finalists are completion.
        spent: Other costs; without tries of the run, nothing is known of idle slots.
    """
    attempts = spent.attempts
    held, money = sum(a.seconds * a.slots for a in attempts), money_of(attempts)
    price = money / held if money is not None and held else None
    rows = [
        LedgerRow(phase="proxies", model=m, seconds=score.seconds, startup_s=score.startup_s)
        for m, score in sorted(proxies.items())
    ]
    rows += [
        LedgerRow(phase="latency", model=m, seconds=found.seconds, startup_s=found.startup_s)
        for m, found in sorted(spent.latencies.items())
    ]
    models = Counter(row.rung for row in journal if row.phase == "rung")
    for row in journal:
        last = row.phase == "completion" or (row.rung > 1 and models[row.rung] <= bracket.finalists)
        rows.append(
            LedgerRow(
                phase="completion" if last else row.phase,
                model=row.trial,
                rung=row.rung,
                epochs=whole(row.paid),
                steps=row.steps,
                seconds=row.seconds,
                evaluation_s=row.evaluation_s,
                startup_s=row.startup_s,
                slots=row.slots,
            )
        )
        if row.check is not None:
            rows.append(
                LedgerRow(
                    phase="int8 check",
                    model=row.trial,
                    rung=row.rung,
                    seconds=row.check.seconds,
                    slots=row.slots,
                )
            )
    rows += [
        LedgerRow(phase="compression", model=each.model, seconds=each.seconds)
        for each in spent.compressed
    ]
    if spent.salvage is not None:
        seconds = spent.salvage.seconds
        rows.append(LedgerRow(phase="salvage", model=bracket.winner, seconds=seconds))
    if held:
        idle = max(0.0, held - sum(row.slot_seconds for row in rows))
        rows.append(LedgerRow(phase="idle", seconds=idle))
    if price is None:
        return tuple(rows)
    return tuple(row.model_copy(update={"money": price * row.slot_seconds}) for row in rows)
