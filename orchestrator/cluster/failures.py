"""Carry an error from a worker to the driver as plain data, and make it an exception again."""

import traceback
from typing import Any

from orchestrator import errors
from orchestrator.errors import ConfigError, OrchestratorError, Problem, StageError

Failure = dict[str, Any]


def describe(error: BaseException) -> Failure:
    """Describe an error in JSON: class, message, problems of a config, traceback."""
    failure: Failure = {
        "error": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }
    if isinstance(error, ConfigError):
        failure["source"] = error.source
        failure["problems"] = [(problem.path, problem.message) for problem in error.problems]
    return failure


def rebuild(failure: Failure, name: str) -> OrchestratorError:
    """Return the error that :func:`describe` described.

    Errors of this system keep their class, and with it their exit code; any other becomes a
    ``StageError`` that ends with where it was raised.

    Args:
        failure: A description.
        name: Name of the launch, for the message.
    """
    if failure["error"] == ConfigError.__name__:
        return ConfigError(failure["source"], [Problem(*each) for each in failure["problems"]])
    known = getattr(errors, failure["error"], None)
    if isinstance(known, type) and issubclass(known, OrchestratorError):
        return known(failure["message"])
    return StageError(
        f"{name}: a worker failed with {failure['error']}: {failure['message']}\n"
        f"{_innermost(failure['traceback'])}"
    )


def _innermost(text: str, lines: int = 6) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])
