"""The promotion gate: whether a child keeps what its parent promised. It fails closed.

For each task and metric that it watches, the gate holds the one-sided 95 % bound of the paired drop
against ``max_drop``. A task that is missing, unverified, or measured on too few rows is a reason to
refuse, never to pass.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import ceil, isfinite, log, log1p, ulp
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.errors import Problem
from orchestrator.zoo.suite import Exam, Suite

DEFAULT = "default"
"""Key of ``max_drop`` for tasks that are not named."""

MAX_DROP = 0.02
"""Drop of the primary metric that is accepted unless a job says otherwise."""

CONFIDENCE = 0.95
"""Confidence of the one-sided bound."""

Drop = Annotated[float, Field(ge=0.0)]


class Promotion(StrictModel):
    """Conditions under which a child is promoted."""

    max_drop: dict[str, Drop | dict[str, Drop]] = {DEFAULT: MAX_DROP}  # noqa: RUF012
    """Largest drop that is accepted: by task (``default`` for all others) a number for its primary
    metric, or numbers by metric, such as ``{spam: {recall.spam: 0.005}}``."""
    require: tuple[str, ...] = ()
    """Tasks that must be in the suite and measured, beside all that the parent has."""
    allow_unverified: tuple[str, ...] = ()
    """Tasks that may stay unverified."""
    statistic: Literal["bound", "mean"] = "bound"
    """Statistic compared with the limit: the one-sided 95 % bound of the drop, or the drop itself.
    The package states a ``mean``."""

    def problems(self) -> Iterable[Problem]:
        """Yield tasks that are both required and allowed to be unverified."""
        for name in sorted({*self.require} & {*self.allow_unverified}):
            yield Problem("allow_unverified", f"{name!r} is also in require. Remove one of them.")

    def limits(self, head: str, exam: Exam) -> Mapping[str, float]:
        """Return the largest accepted drop of each watched metric of a task."""
        limit = self.max_drop.get(head, self.max_drop.get(DEFAULT))
        if limit is None:
            return {}
        return limit if isinstance(limit, dict) else {exam.primary: limit}


class Verdict(StrictModel):
    """Whether a package is accepted, and why not."""

    accepted: bool
    """Whether nothing speaks against it."""
    reasons: tuple[str, ...] = ()
    """Every reason to refuse it."""
    notes: tuple[str, ...] = ()
    """Tasks that were allowed by name, or judged by the mean."""


def judge(parent: Suite | None, child: Suite, promotion: Promotion) -> Verdict:
    """Hold the suite of a child against the promises of its parent.

    Args:
        parent: The parent's suite; None: it promised nothing.
        child: The child's suite, measured on the artifact that is committed.
        promotion: The limits.
    """
    promised = {} if parent is None else parent.exams
    watched = {*promised, *promotion.require}
    reasons: list[str] = list(_unknown_names(promotion, watched | child.exams.keys()))
    notes = ["judged by the mean drop, not by its bound"] if promotion.statistic == "mean" else []
    for head in sorted(watched):
        found = list(_refusals(head, child.exams.get(head), promotion, new=head not in promised))
        unknown = head not in child.exams or child.exams[head].status == "unverified"
        if found and unknown and head in promotion.allow_unverified:
            notes += [f"{reason} (allowed by name)" for reason in found]
        else:
            reasons += found
    return Verdict(accepted=not reasons, reasons=tuple(reasons), notes=tuple(notes))


def is_within(drop: float, limit: float, parent: float) -> bool:
    """Return whether a drop is at most its limit; NaN is not.

    .84 - .82 is more than .02 in floating point, though it is 2 rows of 100. The drop is the
    difference of two rounded values, and the limit is a rounded decimal: what these roundings can
    add up to, 2 units in the last place of the largest value, is forgiven. One row more than the
    limit fails, for any number of rows that a computer can hold.

    Args:
        drop: ``parent - child``, or ``child - parent`` where less is better.
        limit: The largest accepted drop.
        parent: The parent's value.
    """
    largest = max(abs(parent), abs(parent) + abs(drop), limit)
    return isfinite(drop) and drop - limit <= 2 * ulp(largest)


def rows_needed(max_drop: float) -> int | None:
    """Return how many rows, none of them lost, exclude a larger drop; None: no number does."""
    if max_drop <= 0:
        return None
    return 1 if max_drop >= 1 else ceil(log(1 - CONFIDENCE) / log1p(-max_drop))


def _refusals(head: str, exam: Exam | None, promotion: Promotion, *, new: bool) -> Iterator[str]:
    """Yield why a task is not kept."""
    if exam is None:
        yield f"{head}: the package does not answer this task any more"
        return
    if exam.status == "unverified":
        yield f"{head}: unverified: {exam.reason}"
        return
    if new:
        return  # required, measured, and nothing to compare with
    limits = promotion.limits(head, exam)
    if not limits:
        yield f"{head}: no limit is given for it. Set max_drop.{head} or max_drop.{DEFAULT}"
    for metric, limit in limits.items():
        yield from _metric_refusals(f"{head} {metric}", exam, metric, limit, promotion)


def _metric_refusals(
    what: str, exam: Exam, metric: str, limit: float, promotion: Promotion
) -> Iterator[str]:
    difference = exam.differences.get(metric)
    if difference is None:
        hint = did_you_mean(metric, exam.differences, "Compared metrics")
        yield f"{what}: it was not compared with the parent. {hint}"
        return
    kept = is_within(difference.drop, limit, difference.parent)
    if promotion.statistic == "bound":
        fits = isfinite(difference.bound) and difference.bound <= limit
    else:
        fits = kept
    if fits:
        return
    text = f"{what}: fell by {difference.drop:.4f} (95 % bound {difference.bound:.4f}, "
    text += f"{difference.lost} rows lost, {difference.gained} gained of {exam.rows}); "
    text += f"{limit:g} is allowed"
    if kept:
        needed = rows_needed(limit)
        more = "no number of rows" if needed is None else f"{needed} rows with none lost"
        text += f". {exam.rows} rows are too few to tell; {more} would be enough"
    yield text


def _unknown_names(promotion: Promotion, known: set[str]) -> Iterator[str]:
    """Yield the tasks that limits are given for and nobody has: a limit that watches nothing."""
    for name in promotion.max_drop:
        if name != DEFAULT and name not in known:
            yield f"max_drop.{name}: there is no such task. {did_you_mean(name, known, 'Tasks')}"
    for name in promotion.allow_unverified:
        if name not in known:
            hint = did_you_mean(name, known, "Tasks")
            yield f"allow_unverified: there is no task {name!r}. {hint}"
