"""The history of an alias: which version was live when, and what its evaluation suite said."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.errors import InputError, IntegrityError
from orchestrator.zoo.aliases import Aliases, read_aliases
from orchestrator.zoo.names import LATEST, require_alias, require_name
from orchestrator.zoo.package import Package
from orchestrator.zoo.suite import Exam, Suite, read_suite
from orchestrator.zoo.zoo import Zoo

SUITE_HEADER = ("task", "kind", "metric", "value", "95 % interval", "drop", "bound", "state")


class Term(StrictModel):
    """One stretch of time in which an alias pointed to one version."""

    package: str
    """Reference of the version."""
    alias: str
    """The alias."""
    since: datetime
    """Time when it moved there, UTC."""
    until: datetime | None
    """Time when it moved away; null: it still points there."""
    action: str
    """``promote`` or ``rollback``."""
    by: str | None
    """Name of the user who moved it."""
    forced: bool
    """Whether the gate had rejected the version."""
    reason: str | None
    """Reason of the move."""
    values: dict[str, float | None] | None
    """Primary metric of each task; null: the version has no suite, or is not there any more."""

    def row(self) -> Sequence[str]:
        """Return the cells of a table."""
        shown = ", ".join(
            f"{head} {'unverified' if value is None else f'{value:.4f}'}"
            for head, value in (self.values or {}).items()
        )
        until = "now" if self.until is None else f"{self.until:%Y-%m-%d %H:%M:%S}"
        note = " ".join(filter(None, ["forced:" if self.forced else "", self.reason]))
        if self.action == "rollback":
            note = f"rolled back {note}".rstrip()
        since = f"{self.since:%Y-%m-%d %H:%M:%S}"
        return (self.package, since, until, self.by or "", shown or "-", note)


def alias_terms(zoo: Zoo, reference: str) -> list[Term]:
    """Return the terms of an alias, by package name and time.

    Args:
        zoo: The zoo.
        reference: ``champion``: of all names; ``name@champion``: of one.

    Raises:
        InputError: Not an alias, or ``latest``, whose moves are not recorded.
    """
    name, _, alias = reference.rpartition("@")
    if require_alias(alias) == LATEST:
        raise InputError(
            f"{LATEST!r} moves with every accepted version, so its moves are not recorded. "
            "`zoo list` shows when each version was made."
        )
    known = zoo.names()
    if name and require_name(name) not in known:
        hint = did_you_mean(name, known, "Packages")
        raise InputError(f"the zoo {zoo.root} has no package {name!r}. {hint}")
    names = [name] if name else known
    return [
        term for each in names for term in _terms(zoo, each, alias, read_aliases(zoo.store, each))
    ]


def _terms(zoo: Zoo, name: str, alias: str, aliases: Aliases) -> Iterator[Term]:
    moves = [move for move in aliases.history if move.alias == alias]
    for index, move in enumerate(moves):
        ref = f"{name}/{move.version}"
        yield Term(
            package=ref,
            alias=alias,
            since=move.at,
            until=moves[index + 1].at if index + 1 < len(moves) else None,
            action=move.action,
            by=move.by,
            forced=move.forced,
            reason=move.reason,
            values=_values(zoo, name, move.version),
        )


def _values(zoo: Zoo, name: str, version: str) -> dict[str, float | None] | None:
    try:
        suite = read_suite(Package.read(zoo.store, name, version))
    except IntegrityError:
        return None  # removed since, or damaged: `zoo verify` says what
    if suite is None:
        return None
    return {
        head: exam.metrics[exam.primary].value if exam.status == "measured" else None
        for head, exam in suite.exams.items()
    }


def suite_rows(suite: Suite) -> list[Sequence[str]]:
    """Return one table row per task: its primary metric, and the drop against the parent."""
    return [
        _suite_row(head + " (default)" * (head == suite.default), exam)
        for head, exam in suite.exams.items()
    ]


def _suite_row(head: str, exam: Exam) -> Sequence[str]:
    if exam.status == "unverified":
        blank = [""] * 4
        return (head, exam.task.kind, exam.primary, *blank, f"unverified: {exam.reason}")
    figure, change = exam.metrics[exam.primary], exam.differences.get(exam.primary)
    drops = ("", "") if change is None else (f"{change.drop:+.4f}", f"{change.bound:+.4f}")
    interval = f"{figure.low:.4f} to {figure.high:.4f}"
    state = f"{exam.rows} rows"
    return (head, exam.task.kind, exam.primary, f"{figure.value:.4f}", interval, *drops, state)
