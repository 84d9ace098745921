"""Failures of proxies and trials: which of them repeat, and their reason in one line.

Ray and Tune retry whatever a process raises. An error that a second process would raise again is
therefore returned as a result, with its reason, and costs no new process.
"""

import re

from orchestrator.errors import OrchestratorError

REPEATING = (
    OrchestratorError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""Errors that the same package and rows raise again; others (memory, disk, network) may pass."""
COLORS = re.compile(r"\x1b\[[0-9;]*m")
MAX_REASON = 400


def repeats(error: BaseException) -> bool:
    """Return whether a second attempt would fail in the same way.

    An error of this library that a failing disk or network caused does not.
    """
    return isinstance(error, REPEATING) and not isinstance(error.__cause__, OSError)


def reason_of(error: BaseException) -> str:
    """Return an error in one line, without colors or a traceback; of Ray's, its cause."""
    error = getattr(error, "cause", None) or error
    text = " ".join(COLORS.sub("", str(error)).split())
    named = text if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {text}"
    return named if len(named) <= MAX_REASON else f"{named[:MAX_REASON]}..."
