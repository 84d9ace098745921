"""Cost of a selection beside methods that were not run: epochs by formula, times measured seconds.

Brute force trains N candidates for E epochs. Successive halving and HyperBand decide on complete
rungs, so that their epochs follow from N and E alone. Those of ASHA depend on the order in which
scores arrive; they are the mean over random orders. Both are as Ray Tune runs them, with reduction
factor 3 (`selection.replay.tune_runner`), without running them.
"""

import bisect
import math
import random
from statistics import mean, median

from orchestrator.selection.costs.results import Compared, Ledger, MethodCost

REDUCTION = 3
ASHA_DRAWS = 20
MAX_DRAWN = 2000
"""Candidates of a simulated ASHA at most; the epochs of more grow in proportion."""


def compare_costs(ledger: Ledger, winner: str = "") -> tuple[MethodCost, ...]:
    """Return the measured cost of a selection, then what other methods would have cost.

    A candidate without a measured epoch takes the seconds of its proxy pass times the usual ratio
    between both, and without a pass the mean of the measured candidates. Every method trains all
    candidates for an epoch and its choice, taken to be the same, to the end; the epochs between are
    of average candidates. Proxies, start-up and idle slots are counted for this selection alone.

    Args:
        ledger: Of the selection; without rows, only epochs are compared.
        winner: Its winner; empty: an average candidate.
    """
    count, stages = ledger.candidates, ledger.epochs_each
    epochs: dict[Compared, float] = {
        "brute force": count * stages,
        "successive halving": _halving_epochs(count, stages),
        "ASHA": asha_epochs(count, stages),
        "HyperBand": hyperband_epochs(count, stages),
    }
    known, held = _seconds_per_epoch(ledger), ledger.wall_s * ledger.slots
    each = mean(known.values()) if known else 0.0
    # Expensive winners cost more than average: brute force trains everybody to the end anyway.
    extra = (stages - 1) * (known.get(winner, each) - each)
    seconds = {m: number * each + extra for m, number in epochs.items()}
    seconds["brute force"] = epochs["brute force"] * each
    price = ledger.money / held if ledger.money is not None and held else None
    work = sum(r.seconds * r.slots for r in ledger.rows if r.phase != "idle")
    waiting = max(held, sum(row.slot_seconds for row in ledger.rows)) - work
    ours = MethodCost(
        method="this selection",
        epochs=ledger.total_epochs,
        seconds=work if known else None,
        waiting_s=waiting if known else 0.0,
        money=ledger.money,
    )
    others = [
        MethodCost(
            method=method,
            epochs=number,
            seconds=seconds[method] if known else None,
            money=seconds[method] * price if known and price is not None else None,
        )
        for method, number in epochs.items()
    ]
    return (ours, *others)


def asha_epochs(count: int, stages: int) -> float:
    """Mean epochs of ASHA on candidates that arrive one after another, in random order.

    A candidate passes a rung if its score is not below the quantile ``1 - 1/3`` of those before it.

    Args:
        count: N candidates.
        stages: E, epochs of a full training.
    """
    drawn = min(count, MAX_DRAWN)
    rungs = int(math.log(stages) / math.log(REDUCTION) + 1 + 1e-9)
    milestones: list[int] = [REDUCTION**rung for rung in range(rungs)]
    numbers = random.Random(0)  # noqa: S311 - not for secrets
    totals: list[int] = []
    for _ in range(ASHA_DRAWS):
        alive, total = numbers.sample(range(drawn), drawn), drawn * milestones[0]
        for milestone, following in zip(milestones, [*milestones[1:], stages], strict=True):
            seen: list[float] = []
            passed = []
            for score in alive:
                if not seen or score >= _quantile(seen, 1 - 1 / REDUCTION):
                    passed.append(score)
                bisect.insort(seen, score)
            total += len(passed) * (following - milestone)
            alive = passed
        totals.append(total)
    return round(sum(totals) / len(totals) * count / drawn, 1)


def hyperband_epochs(count: int, stages: int) -> int:
    """Epochs of Ray Tune's HyperBand, and those that its choice lacks to the end.

    Bracket s of ``s_max + 1`` takes ``ceil((s_max + 1) / (s + 1) * 3^s)`` candidates for
    ``int(E / 3^s)`` epochs, then s times a third of them for three times as many epochs (Li et al.
    2018; Tune rounds down, and fills one bracket after the other).

    Args:
        count: N candidates.
        stages: E, epochs of a full training.
    """
    brackets = round(math.log(stages) / math.log(REDUCTION)) + 1
    left, total, place, longest = count, 0, 0, 0
    while left:
        rung, reached = place % brackets, int(stages * float(REDUCTION) ** -(place % brackets))
        place += 1
        if reached == 0:
            continue
        size = math.ceil(brackets / (rung + 1) * REDUCTION**rung)
        models = min(size, left)
        left -= models
        total += models * reached
        for _ in range(rung):
            size, before = math.ceil(size / REDUCTION), reached
            reached = min(reached * REDUCTION, stages)
            models = min(size, models)
            total += models * (reached - before)
        longest = max(longest, reached)
    return total + stages - longest


def _halving_epochs(count: int, stages: int) -> int:
    """Epochs where the better half goes on after each one."""
    return sum(max(1, count >> stage) for stage in range(stages))


def _quantile(ordered: list[float], share: float) -> float:
    """The value below which a share of sorted numbers lies, interpolated as numpy does."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _seconds_per_epoch(ledger: Ledger) -> dict[str, float]:
    """Model to seconds of one slot for an epoch, measured or by proxy; empty: none was timed."""
    epochs: dict[str, list[float]] = {}
    steps = ledger.brute_force_steps / ledger.brute_force_epochs
    for row in ledger.rows:
        if row.epochs and row.seconds > 0:
            part = row.steps / steps if steps and row.steps else row.epochs
            training = max(0.0, row.seconds - row.evaluation_s) / part
            epochs.setdefault(row.model, []).append((training + row.evaluation_s) * row.slots)
    known = {model: median(values) for model, values in epochs.items()}
    if not known:
        return {}
    passes = {r.model: r.seconds for r in ledger.rows if r.phase == "proxies" and r.seconds > 0}
    both = [known[model] / passes[model] for model in known.keys() & passes.keys()]
    if both:
        ratio = median(both)
        known = {**{model: ratio * seconds for model, seconds in passes.items()}, **known}
    return known
