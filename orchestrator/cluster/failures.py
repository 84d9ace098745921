"""Errors of workers, carried to the driver as data and made exceptions again there."""

import traceback

from orchestrator import errors
from orchestrator.config.strict import StrictModel
from orchestrator.errors import ConfigError, OrchestratorError, Problem, StageError

SHOWN_LINES = 6
"""Last lines of a traceback that a message holds."""


class Failure(StrictModel):
    """An error that a worker raised."""

    error: str
    """Name of its class."""
    message: str
    """Its text."""
    traceback: str
    """Traceback of the error."""
    source: str | None = None
    """File of a config that is wrong."""
    places: tuple[tuple[str, str], ...] = ()
    """(path, message) of each problem in it."""


def describe(error: BaseException) -> Failure:
    """Return an error as data."""
    failure = Failure(
        error=type(error).__name__,
        message=str(error) or type(error).__name__,
        traceback="".join(traceback.format_exception(error)),
    )
    if not isinstance(error, ConfigError):
        return failure
    places = tuple((problem.path, problem.message) for problem in error.problems)
    return failure.model_copy(update={"source": error.source, "places": places})


def rebuild(failure: Failure, name: str) -> OrchestratorError:
    """Return the error that :func:`describe` described.

    Errors of this system keep their class, and with it their exit code; any other becomes a
    ``StageError`` that ends with the place where it was raised.

    Args:
        failure: The description.
        name: Name of the launch, for the message.
    """
    if failure.source is not None:
        return ConfigError(failure.source, [Problem(*each) for each in failure.places])
    known = getattr(errors, failure.error, None)
    if isinstance(known, type) and issubclass(known, OrchestratorError):
        return known(failure.message)
    innermost = "\n".join(failure.traceback.rstrip().splitlines()[-SHOWN_LINES:])
    return StageError(
        f"{name}: a worker failed with {failure.error}: {failure.message}\n{innermost}"
    )
