"""Meetings: how the ranks of a group bring their parts of one checkpoint together.

On a shared folder, rank 0 makes a temporary folder, every rank writes into it and leaves its
description there. On an object store, every rank writes into a staging folder of its own host,
copies its files to the store and then its description; rank 0 finds the descriptions there.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.storage import atomic_write_bytes, is_temporary
from orchestrator.storage.remote.mirror import Mirror
from orchestrator.training.engines.state_index import RankPart

WRITTEN = ".written-"
"""Beginning of the name of a rank's description of its part, which is complete then."""
FAILED = ".failed"
"""Name of an empty file that says that some rank could not write its part."""
MAX_PART_BYTES = 2**30
"""Largest description in bytes; a model with many tensors needs megabytes."""


class Meeting(Protocol):
    """Place where the ranks of a group bring their parts of one checkpoint together.

    Attributes:
        staged: Where this rank writes its files.
        where: What messages call the place of the checkpoint.
        poll_s: Seconds between two looks at what others have delivered.
        deadline_s: Longest wait for the others.
    """

    staged: Path
    where: str
    poll_s: float
    deadline_s: float

    def is_open(self, rank: int) -> bool:
        """Return whether a rank may write its part."""
        ...

    def deliver(self, part: RankPart) -> None:
        """Make a part that is written known to rank 0; may be called again.

        Raises:
            StageError: The storage failed; names what was not stored.
        """
        ...

    def delivered(self, world: int) -> Sequence[RankPart]:
        """Return the parts of all ranks, or nothing while some are missing."""
        ...

    def fail(self) -> None:
        """Let the others know that this rank could not write its part."""
        ...

    def has_failed(self) -> bool:
        """Return whether some rank could not write its part."""
        ...

    def discard(self) -> None:
        """Remove what this rank has written on its host."""
        ...

    def settle(self) -> None:
        """Tidy up on this rank's host after the commit."""
        ...


class SharedFolder:
    """A meeting in a temporary folder that all ranks see; see `Meeting`."""

    poll_s = 0.02  # a look costs one stat on the shared storage
    deadline_s = 3600.0  # a part may be large and storage slow; a rank that is lost is noticed

    def __init__(self, staged: Path) -> None:
        self.staged = staged
        self.where = str(staged.parent)

    def is_open(self, rank: int) -> bool:
        """See `Meeting.is_open`: rank 0 makes the folder."""
        return rank == 0 or self.staged.is_dir()

    def deliver(self, part: RankPart) -> None:
        """See `Meeting.deliver`."""
        mark = self.staged / f"{WRITTEN}{part.rank}"
        atomic_write_bytes(mark, part.model_dump_json().encode())

    def delivered(self, world: int) -> Sequence[RankPart]:
        """See `Meeting.delivered`; the descriptions are removed."""
        marks = [self.staged / f"{WRITTEN}{rank}" for rank in range(world)]
        if not all(mark.exists() for mark in marks):
            return ()
        parts = [RankPart.model_validate_json(mark.read_bytes()) for mark in marks]
        for mark in marks:
            mark.unlink()
        return parts

    def fail(self) -> None:
        """See `Meeting.fail`."""
        with suppress(OSError):  # where even this cannot be written, the others wait in vain
            self.staged.mkdir(parents=True, exist_ok=True)
            (self.staged / FAILED).touch()

    def has_failed(self) -> bool:
        """See `Meeting.has_failed`."""
        return (self.staged / FAILED).exists()

    def discard(self) -> None:
        """See `Meeting.discard`."""
        shutil.rmtree(self.staged, ignore_errors=True)

    def settle(self) -> None:
        """See `Meeting.settle`."""


class RemoteFolder:
    """A meeting on an object store; see `Meeting`.

    Args:
        mirror: The run's checkpoints on the store.
        name: Folder of the new checkpoint there.
        staged: Staging folder of this host.
    """

    poll_s = 0.5  # a look is a request
    deadline_s = 24 * 3600.0  # every rank's own copies have a shorter limit, and it says so

    def __init__(self, mirror: Mirror, name: str, staged: Path) -> None:
        self._mirror, self._name = mirror, name
        self.staged = staged
        self.where = f"{mirror.store.root}/{name}"

    def is_open(self, rank: int) -> bool:
        """See `Meeting.is_open`: every host has its own folder."""
        return True

    def deliver(self, part: RankPart) -> None:
        """See `Meeting.deliver`: the files, then the description."""
        self._mirror.push(part.files, self._name, self.staged)
        mark = f"{self._name}/{WRITTEN}{part.rank}"
        self._mirror.store.write(mark, part.model_dump_json().encode())

    def delivered(self, world: int) -> Sequence[RankPart]:
        """See `Meeting.delivered`."""
        names = [f"{WRITTEN}{rank}" for rank in range(world)]
        if not set(names) <= set(self._mirror.store.files(self._name)):
            return ()
        read = (self._mirror.store.read(f"{self._name}/{name}", MAX_PART_BYTES) for name in names)
        return [RankPart.model_validate_json(content) for content in read]

    def fail(self) -> None:
        """See `Meeting.fail`."""
        with suppress(OrchestratorError):  # they will notice themselves that the store fails
            self._mirror.store.write(f"{self._name}/{FAILED}", b"")

    def has_failed(self) -> bool:
        """See `Meeting.has_failed`."""
        return FAILED in self._mirror.store.files(self._name)

    def discard(self) -> None:
        """See `Meeting.discard`; what is on the store is swept when the run goes on."""
        shutil.rmtree(self.staged, ignore_errors=True)

    def settle(self) -> None:
        """See `Meeting.settle`: of the copies on this host, only the newest one stays."""
        final = self.staged.parent / self._name
        if self.staged.is_dir():
            shutil.rmtree(final, ignore_errors=True)
            with suppress(OSError):  # another rank of this host was quicker
                self.staged.rename(final)
        for other in self.staged.parent.glob("step-*"):
            if other != final and not is_temporary(other.name):
                shutil.rmtree(other, ignore_errors=True)
