"""Errors that users meet, each with the exit code its job ends with.

0 done, 1 failed, 2 bad config or input, 3 interrupted and resumable, 4 integrity failure,
5 refused by a gate.
A message says what was wrong (the value), what is allowed, and what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue


class OrchestratorError(Exception):
    """Base of every error this system raises on purpose.

    Attributes:
        result: What a program wants to know of it, as JSON values of the job's last line.
    """

    exit_code = 1
    result: "Mapping[str, JsonValue]" = MappingProxyType({})


class StageError(OrchestratorError):
    """A stage could not do its work although its input was valid."""


class InputError(OrchestratorError):
    """A user's input (a file, a data set, a name, a resource request) cannot be used."""

    exit_code = 2


class NoLabelsError(InputError):
    """No sample of a step has a label for any of the model's targets."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a config: where (``a.b.0.c``) and what, allowed values included."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(InputError):
    """A config has problems; all of them are listed, with the file they are in."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{source}: {count} problem{'s' if count != 1 else ''}"]
        super().__init__("\n".join([*lines, *(f"  {problem}" for problem in self.problems)]))


class InterruptedRunError(OrchestratorError):
    """The run was stopped from outside and continues when it is started again."""

    exit_code = 3


class IntegrityError(OrchestratorError):
    """Stored bytes are not what their manifest says, or are of a kind that is never loaded."""

    exit_code = 4


class RefusedError(OrchestratorError):
    """A gate refused a package: it is in the zoo as ``rejected``, and no alias points to it.

    Attributes:
        package: Its reference.
        reasons: Why it is refused.
        result: The result of the job that made it, as JSON values; empty without a job.
    """

    exit_code = 5

    def __init__(
        self, package: str, reasons: Sequence[str], result: "Mapping[str, JsonValue] | None" = None
    ) -> None:
        self.package = package
        self.reasons = tuple(reasons)
        self.result = dict(result or {})
        lines = [f"{package} is refused by its promotion gate and stays rejected:"]
        advice = f"Accept it all the same: orchestrator zoo promote {package} --force"
        super().__init__("\n".join([*lines, *(f"  {reason}" for reason in reasons), advice]))
