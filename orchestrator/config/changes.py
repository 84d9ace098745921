"""Settings of a run that may change when it goes on.

Each config class lists those of its settings that do not decide the result. A setting that is not
listed decides: it is refused, so that one that was forgotten does no harm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """Influence of a setting on the result of a run."""

    NOTHING = "nothing"
    """The result is the same, bit for bit."""
    ROUNDING = "rounding"
    """Sums are taken in another order: the result is the same up to rounding."""
    NOISE = "noise"
    """Rounding, and dropout draws other numbers: the same in expectation."""
    RESULT = "result"
    """It decides the result."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting, or a section, and what it means to change it.

    Attributes:
        effect: Its influence.
        reason: For people: why it is harmless, or what it decides.
    """

    effect: Effect
    reason: str = ""


Changes = Mapping[str, Change]
"""Path of a setting or section, like ``train.log_every_steps``, to its change."""


def change_of(changes: Changes, path: str) -> Change | None:
    """Return the entry of a setting or of the nearest section that holds it; None: not listed."""
    while path and path not in changes:
        path = path.rpartition(".")[0]
    return changes.get(path)


def may_change(changes: Changes, path: str) -> bool:
    """Return whether a setting does not decide the result."""
    found = change_of(changes, path)
    return found is not None and found.effect != Effect.RESULT


PLACES: Changes = {
    "run.dir": Change(Effect.NOTHING, "a place"),
    "run.zoo": Change(Effect.NOTHING, "a place"),
    "cluster": Change(Effect.NOTHING, "where the run computes"),
    "cluster.workers": Change(Effect.NOISE, "the same sum of gradients in other parts"),
}
"""Settings that every job has."""
