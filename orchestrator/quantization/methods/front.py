"""The default method: exact front of the surrogate, bisection up to the bound, local repair.

Errors of single units add up well over decades, while an accuracy on a few hundred rows is noise.
The front of the surrogate is therefore taken as the order of plans, and measurements only find the
place on it where the bound of the goal lies: about log2 of its length instead of all of it. Where
the surrogate is wrong, plans beside the front may do better: the plan just beyond the bound is
tried again with the unit in float (or in a gentler kind) that removes most of its error.

NNCF's accuracy control reverts groups one by one from full INT8, each with a validation of its own,
and knows no time; integer programming returns one plan per bound of the surrogate.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import count
from math import inf, log
from typing import Final

from orchestrator.quantization.allocator import Option, Predicted, candidates, predicted
from orchestrator.quantization.methods.space import Measure, Space
from orchestrator.quantization.plans import Plan

REPAIRS: Final = 3
"""Plans beside the front that are tried."""
SAME_TIME: Final = 0.005
"""Difference of predicted ratios for which no further plan is measured."""


def search(space: Space, measure: Measure) -> None:
    """Measure the pure modes, and the plans of the front that lie about the bound."""
    if not space.goal.bounds_quality and not space.goal.bounds_time:
        measure(candidates(space.front, space.baselines, space.budget))
        return
    verdicts = measure(space.baselines)
    _Bisection(space, measure, verdicts).run()


class _Bisection:
    """The search for the most wanted plan that keeps the bound.

    ``order`` begins with the plan that surely keeps it; ``axis`` is what the bound is thought to
    depend on: the logarithm of the predicted error, or the predicted time.
    """

    def __init__(self, space: Space, measure: Measure, verdicts: Mapping[str, bool]) -> None:
        self.space, self._measure = space, measure
        by_error = space.goal.bounds_quality
        plans = [each for each in space.front if each.plan.integer]
        self.order = plans[::-1] if by_error else plans
        errors = [each.error for each in self.order if each.error > 0]
        self.floor = min(errors, default=1.0)
        self.by_error = by_error
        self.axis = [self._place(each) for each in self.order]
        self.tried: dict[str, bool] = {}
        self.names = (f"mixed.{number}" for number in count())
        self.left = space.budget
        self.low, self.high = self._known(verdicts)

    def run(self) -> None:
        """Bisect, and repair the plan just beyond the bound."""
        reserve = min(REPAIRS, self.left // 3) if self.by_error else 0
        while self.order and self.left > reserve and self._step():
            pass
        if self.by_error and self.high < len(self.order):
            for plan in self._repairs(self.order[self.high]):
                self._try(plan)

    def _step(self) -> bool:
        """Measure one plan between the ends, or an end that was only assumed; False: all is known.

        Pure modes say where the ends are; a noisy one may be wrong, which shows when the end itself
        is measured.
        """
        low, high, last = self.low, self.high, len(self.order)
        if high == last and low < last - 1:  # nothing is known to fail: the most wanted plan first
            self._settle(last - 1)
        elif not self._is_narrow():
            self._settle(self._middle())
        elif high < last and not self._is_tried(high):
            self._settle(high)
            self.high = last if self.low == high else self.high
        elif low >= 0 and not self._is_tried(low):
            self._settle(low)
            self.low = -1 if self.high == low else self.low
        else:
            return False
        return True

    def _settle(self, place: int) -> None:
        """Measure the plan at a place, and move the end that it belongs to."""
        if self._try(self.order[place].plan):
            self.low = place
        else:
            self.high = place

    def _is_tried(self, place: int) -> bool:
        return self.order[place].plan.digest in self.tried

    def _known(self, verdicts: Mapping[str, bool]) -> tuple[int, int]:
        """Return the last place that pure modes say is safe, and the first that is not."""
        places = {
            name: self._place(found)
            for name, plan in self.space.baselines.items()
            if plan.integer and (found := predicted(plan, self.space.options)) is not None
        }
        fails = min((place for name, place in places.items() if not verdicts[name]), default=inf)
        safe = max(
            (place for name, place in places.items() if verdicts[name] and place < fails),
            default=-inf,
        )
        last = bisect_right(self.axis, safe) - 1
        first = next((i for i, place in enumerate(self.axis) if place >= fails), len(self.axis))
        return min(last, first - 1), first

    def _place(self, plan: Predicted) -> float:
        return log(max(plan.error, self.floor)) if self.by_error else plan.time

    def _is_narrow(self) -> bool:
        if self.high - self.low <= 1:
            return True
        if self.low < 0:
            return False
        return abs(self.order[self.high].time - self.order[self.low].time) <= SAME_TIME

    def _middle(self) -> int:
        """Return the place in the middle of the axis, strictly between the two ends."""
        first = self.axis[max(self.low, 0)]
        target = (first + self.axis[self.high]) / 2
        return min(max(bisect_right(self.axis, target) - 1, self.low + 1), self.high - 1)

    def _try(self, plan: Plan) -> bool:
        """Return whether a plan keeps the bound, measuring it once, while the budget lasts."""
        if plan.digest not in self.tried:
            if self.left < 1:
                return False
            known = {p.digest: name for name, p in self.space.baselines.items()}
            name = known.get(plan.digest) or next(self.names)
            self.left -= plan.digest not in known
            self.tried[plan.digest] = dict(self._measure({name: plan}))[name]
        return self.tried[plan.digest]

    def _repairs(self, failed: Predicted) -> Iterator[Plan]:
        """Yield the failed plan with one unit changed, where it stays faster than the kept one."""
        kept = self.order[self.low].time if self.low >= 0 else 0.0
        changed = [
            (option.error - other.error, unit, other)
            for unit, kind in failed.plan.integer.items()
            for option in self.space.options[unit]
            if option.kind == kind
            for other in (Option("fp32", 0.0, 0.0), *self.space.options[unit])
            if other.error < option.error
            and failed.time - option.time + other.time < kept - SAME_TIME
        ]
        changed.sort(key=lambda change: -change[0])
        for _, unit, other in changed[:REPAIRS]:
            yield Plan({**failed.plan.kinds, unit: other.kind})
