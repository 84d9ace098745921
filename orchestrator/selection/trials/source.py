"""Work of a selection in its order: screening, the epochs of those recalled, and the closing.

One queue feeds one set of processes. Forward passes and packages as tasks of their own would load
torch, the rows and the packages in processes that no trial could take over.
"""

from collections.abc import Callable
from typing import Protocol

from orchestrator.selection.halving import Bracket
from orchestrator.training.events import NewTrial


class Phase(Protocol):
    """Trials of one step before or after the bracket."""

    @property
    def waiting(self) -> tuple[str, ...]:
        """Names of the trials whose results are missing."""
        ...

    def trial(self, name: str) -> NewTrial:
        """Return the trial behind a name that is waited for."""
        ...

    def record(self, name: str, text: str) -> None:
        """Take the result of a trial, as JSON."""
        ...

    def fail(self, name: str, reason: str) -> None:
        """Take the failure of a trial."""
        ...


class TrialSource:
    """Trials to be started, in their order.

    Args:
        begin: Makes the bracket when screening waits for nothing any more.
        trial: Makes the trial of a model.
        screening: Phase before the bracket; None: there is none.
        close: Makes the phase after the bracket; None: there is none.
        seconds: Returns how long a rung of a model is expected to take; None: not known.

    Attributes:
        bracket: The bracket; None until screening is over.

    Raises:
        OrchestratorError: As ``begin`` or ``close``.
    """

    def __init__(
        self,
        begin: Callable[[], Bracket],
        trial: Callable[[str], NewTrial],
        screening: Phase | None = None,
        close: Callable[[Bracket], Phase] | None = None,
        seconds: Callable[[str], float | None] | None = None,
    ) -> None:
        self.bracket: Bracket | None = None
        self._begin, self._trial, self._close = begin, trial, close
        self._seconds = seconds
        self._screening = screening
        self._closing: Phase | None = None
        self._issued: set[str] = set()
        self.advance()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be run."""
        return self.bracket is not None and self.bracket.finished and not self.waiting()

    @property
    def phase(self) -> Phase | None:
        """The phase that is open before or after the bracket."""
        return self._screening if self.bracket is None else self._closing

    def waiting(self) -> tuple[str, ...]:
        """Names of the trials that may run now, in the order in which they should start.

        A rung ends with its last trial, and slots without one wait for it: the longest start first.
        """
        if self.phase is not None:
            return self.phase.waiting
        if self.bracket is None:
            return ()
        names = self.bracket.waiting()
        if self._seconds is None:
            return names
        expected = {name: self._seconds(name) for name in names}
        return tuple(sorted(names, key=lambda name: -(expected[name] or 0.0)))

    def next_trial(self) -> NewTrial | None:
        """Return a trial that has not been started; None: none at this moment."""
        name = next((name for name in self.waiting() if name not in self._issued), None)
        if name is None:
            return None
        self._issued.add(name)
        return self._trial(name) if self.phase is None else self.phase.trial(name)

    def advance(self) -> None:
        """Open the bracket or the closing if nothing before it is waited for.

        Raises:
            OrchestratorError: No bracket can be made of the results, or no closing.
        """
        if self.bracket is None and not (self._screening and self._screening.waiting):
            self.bracket = self._begin()
        if self.bracket is not None and self.bracket.finished and self._close is not None:
            self._closing, self._close = self._close(self.bracket), None
