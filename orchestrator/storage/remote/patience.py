"""Bounded retries of operations on a remote store: a lost connection is waited out, and said so."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from orchestrator.storage.disk_failures import UnreachableError

PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses between two tries; the last one repeats."""
SAY_EVERY_S = 30.0
"""Seconds between two messages about one operation that does not succeed."""

Options = ParamSpec("Options")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Patient(Protocol):
    """A store with a limit for its retries.

    Attributes:
        patience_s: Longest time that an operation is tried again; 0: it fails at once.
        say: Receives what a user should know while an operation is tried again.
    """

    patience_s: float
    say: Callable[[str], None]


Owner = TypeVar("Owner", bound=Patient)


Method = Callable[Concatenate[Owner, Options], Result]


def patient(method: "Method[Owner, Options, Result]") -> "Method[Owner, Options, Result]":
    """Try a method of a store again while the store cannot be reached; see `Patient`.

    The method must be safe to repeat after it succeeded and its answer was lost.
    """

    @wraps(method)
    def tried(self: Owner, *args: Options.args, **options: Options.kwargs) -> Result:
        began = said = time.monotonic()
        failures = 0
        while True:
            try:
                return method(self, *args, **options)
            except UnreachableError as error:
                now = time.monotonic()
                left = began + self.patience_s - now
                if left <= 0:
                    raise
                if failures == 0 or now - said > SAY_EVERY_S:
                    said = now
                    self.say(f"{error} Trying again, for up to {left:.0f} s more.")
                time.sleep(min(PAUSES_S[min(failures, len(PAUSES_S) - 1)], left))
                failures += 1

    return cast("Method[Owner, Options, Result]", tried)
