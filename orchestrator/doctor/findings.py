"""One result of an examination."""

from dataclasses import dataclass

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: its state (ok, warning, failure) and what to do about it."""

    subject: str
    state: str
    detail: str
