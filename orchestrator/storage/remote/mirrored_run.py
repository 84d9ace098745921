"""The driver's side of a run on an object store: the lease, the mirror, and the logs' copies."""

import logging
from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.storage.remote.lease import Lease, Repeated, require_exclusive
from orchestrator.storage.remote.mirror import Mirror

LOGS = "tensorboard"
"""Folder of event files: they only grow, and are copied to the store every now and then."""
LOGS_S = 30.0
"""Seconds between two copies of the logs."""
logger = logging.getLogger(__name__)


class MirroredRun:
    """A run on an object store, held by one driver at a time.

    Args:
        address: The run's folder.

    Attributes:
        mirror: The folder and its staging folder.
        address: The run's folder.
    """

    def __init__(self, address: str) -> None:
        self.mirror = Mirror.of(address)
        self.address = address
        self._lease = Lease(self.mirror.store)
        self._logs: Repeated | None = None
        self._copied: dict[str, int] = {}

    @property
    def lease(self) -> int:
        """Number of the lease; worker groups of later leases shut out those of earlier ones."""
        return self._lease.number

    def open(self, files: Iterable[str], folder: str) -> None:
        """Take the lease, and copy the run's state and logs into the staging folder.

        Args:
            files: Names of the files that are state.
            folder: Folder of state.

        Raises:
            InputError: The store has no conditional writes.
            LockedError: Another process works on this run.
            StageError: The store failed.
        """
        require_exclusive(self.mirror.store)
        self._lease.acquire()
        self.mirror.pull_state(files, [folder])
        self.mirror.pull(dict.fromkeys(self.mirror.store.files(LOGS)), LOGS)
        self._logs = Repeated(self._copy_logs, LOGS_S, "logs")

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file of the run.

        Args:
            path: Its place in the staging folder.
            data: Its content.

        Raises:
            LockedError: Another process has taken over the run.
            StageError: The store failed for too long.
        """
        self._lease.require()
        self.mirror.store.write(path.relative_to(self.mirror.folder).as_posix(), data)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files and folders of the run, in this order.

        Args:
            names: Their names; what is not there is passed over.

        Raises:
            LockedError: Another process has taken over the run.
            StageError: The store failed for too long.
        """
        store = self.mirror.store
        for name in names:
            self._lease.require()
            if name in store.folders():
                store.drop(name)
            else:
                store.remove(name)

    def _copy_logs(self) -> None:
        folder = self.mirror.folder / LOGS
        found = {file.name: file.stat().st_size for file in folder.glob("*") if file.is_file()}
        changed = [name for name, size in found.items() if self._copied.get(name) != size]
        if changed:
            self._lease.require()
            self.mirror.push(changed, LOGS)
            self._copied = found

    def close(self) -> None:
        """Copy the last logs, and let another process take the run."""
        if self._logs is not None:
            self._logs.stop()
            try:
                self._copy_logs()
            except OrchestratorError as error:  # curves only: the result stands
                logger.warning("event=logs_not_copied reason=%r", str(error))
        self._lease.release()
