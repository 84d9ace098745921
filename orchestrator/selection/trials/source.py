"""Work of a selection in its order: screening first, then the epochs of those recalled.

One queue feeds one set of processes. Forward passes as tasks of their own would load torch, the
rows and the packages in processes that no trial could take over.
"""

from collections.abc import Callable

from orchestrator.selection.halving import Bracket
from orchestrator.selection.screening import Screening
from orchestrator.training.events import NewTrial


class TrialSource:
    """Trials to be started, in their order.

    Args:
        begin: Makes the bracket when screening waits for nothing any more.
        trial: Makes the trial of a model.
        screening: Phase one; None: there is none.

    Attributes:
        bracket: The bracket; None until screening is over.

    Raises:
        OrchestratorError: As ``begin``.
    """

    def __init__(
        self,
        begin: Callable[[], Bracket],
        trial: Callable[[str], NewTrial],
        screening: Screening | None = None,
    ) -> None:
        self.bracket: Bracket | None = None
        self._begin, self._trial, self._screening = begin, trial, screening
        self._issued: set[str] = set()
        self._advance()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be run."""
        return self.bracket is not None and self.bracket.finished

    def waiting(self) -> tuple[str, ...]:
        """Names of the trials that may run now."""
        if self.bracket is not None:
            return self.bracket.waiting()
        assert self._screening is not None
        return self._screening.waiting

    def next_trial(self) -> NewTrial | None:
        """Return a trial that has not been started; None: none at this moment."""
        name = next((name for name in self.waiting() if name not in self._issued), None)
        if name is None:
            return None
        self._issued.add(name)
        if self.bracket is None and self._screening is not None:
            return self._screening.trial(name)
        return self._trial(name)

    def record(self, name: str, text: str) -> None:
        """Take the result, as JSON, of a trial of the screening.

        Raises:
            OrchestratorError: No bracket can be made of the results.
        """
        assert self._screening is not None
        self._screening.record(name, text)
        self._advance()

    def fail(self, name: str, reason: str) -> None:
        """Take the failure of a trial of the screening.

        Raises:
            OrchestratorError: No bracket can be made of the results.
        """
        assert self._screening is not None
        self._screening.fail(name, reason)
        self._advance()

    def _advance(self) -> None:
        if self.bracket is None and not (self._screening and self._screening.waiting):
            self.bracket = self._begin()
