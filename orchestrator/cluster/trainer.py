"""Ray Train's ``TorchTrainer`` without the helper processes that our launches never use.

Each helper is a Python process that imports Ray before training may start: about two seconds of
one core. We read data in the workers (no dataset manager), and a private cluster ends with the
driver, so no placement groups are left to clean up after a crash.

The size of an elastic group follows the nodes that are alive. Ray's coordinator answers from a list
of nodes that is up to 20 seconds old, and counts nodes that are draining: a group that just lost a
node would be started again with a worker on that node, and wait for it in vain.

Failures are counted from the last checkpoint, and lost hosts separately; leaving a draining node is
none. Ray counts those of a whole run: a job of months would end with the fourth crash, however far
apart they are.
"""

import logging
import time
from typing import Any

import ray
from ray.train.torch import TorchTrainer

from orchestrator.cluster.drains import draining_nodes
from orchestrator.cluster.observe.mailbox import living_nodes

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0  # each look makes the coordinator list the nodes anew
MAX_LOSSES = 20
"""Worker groups in a row that may lose a node without any of them committing a checkpoint."""
ANSWER_S = 60.0  # longest wait for the mailbox, which does nothing but count
UNUSED = frozenset({"DatasetsCallback"})
UNUSED_WHEN_PRIVATE = frozenset({"PlacementGroupCleanerCallback"})


class LeanTorchTrainer(TorchTrainer):
    """A ``TorchTrainer`` with fewer default callbacks.

    Args:
        mailbox: The :class:`~orchestrator.cluster.observe.mailbox.Mailbox` actor of the launch.
        private: Whether the cluster ends with this process.
        **options: Everything that ``TorchTrainer`` takes.
    """

    def __init__(self, *args: Any, mailbox: Any, private: bool = False, **options: Any) -> None:
        self._mailbox = mailbox
        self._skipped = UNUSED | (UNUSED_WHEN_PRIVATE if private else frozenset())
        super().__init__(*args, **options)

    def _create_default_callbacks(self) -> list[Any]:
        # Not public: should Ray rename it, this is simply never called and the helpers run.
        callbacks: list[Any] = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in self._skipped]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        # Not public either: without it a lost node costs some seconds more.
        policy = options.get("scaling_policy")
        if hasattr(policy, "_count_possible_workers"):
            # Ray made the object and keeps it private; only its class can still be replaced.
            policy.__class__ = _followed(type(policy))
        failures = options.get("failure_policy")
        if failures is not None and hasattr(failures, "_worker_group_failures"):  # else Ray counts
            failures.__class__ = _patient(type(failures))
            failures.mailbox = self._mailbox
        return super()._initialize_and_run_controller(**options)


def _followed(policy: type) -> type:
    """Return an elastic scaling policy whose coordinator looks at the nodes before it answers."""

    class Followed(policy):  # type: ignore[misc]
        """Counts workers on the nodes that are alive and stay."""

        _looked_at = -LOOK_EVERY_S

        def _get_reserved_resources(self) -> Any:
            if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
                self._looked_at = time.monotonic()
                try:  # calls arrive in order: the look comes before the question
                    coordinator = self._autoscaling_coordinator
                    coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
                except (AttributeError, TypeError) as error:
                    logger.debug("Ray looks for nodes at its own pace: %s", error)
            found = super()._get_reserved_resources()
            if not found:
                return found
            leaving = draining_nodes()
            return {node: has for node, has in found.items() if node not in leaving}

    return Followed


def _patient(policy: type) -> type:
    """Return a failure policy that counts from the last checkpoint, lost hosts apart."""

    class Patient(policy):  # type: ignore[misc]
        """Asks the mailbox how often workers failed."""

        mailbox: Any

        def make_decision(self, training_failed_error: Any) -> Any:
            from ray.train import WorkerGroupError

            if isinstance(training_failed_error, WorkerGroupError):
                answer = self.mailbox.group_failed.remote(living_nodes())
                own, losses = ray.get(answer, timeout=ANSWER_S)
                limit = self.failure_config.max_failures
                count = own if losses <= MAX_LOSSES else limit + 1
                self._worker_group_failures = count - 1  # Ray adds the one that it decides on
            return super().make_decision(training_failed_error)

    return Patient
