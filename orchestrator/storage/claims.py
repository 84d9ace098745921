"""Numbered claims on a run: a newer holder shuts out what is left of an older one.

A host that is cut off from the head trains on until it notices, which takes as long as health
checks do, and may reach the run's storage all the while. So may the workers of a driver that was
killed. Without a fence such a group would replace and remove checkpoints of the group that goes on.

Before a group reads anything, its rank 0 takes the next number in the run's folder: it makes the
file ``.group-<number>``, which must not be there, and removes those of lower numbers. Making a file
that must not be there is atomic on NFS as well, and on object stores that have conditional writes
(``If-None-Match`` on S3, ``ifGenerationMatch`` on GCS, ``If-None-Match`` on Azure); the fence needs
nothing else, so one scheme serves all of them. A group may write as long as its file is there. It
looks before it commits, before each removal of a checkpoint, and before it sweeps away rests of
killed writers; when the file is gone or a higher one is there, it raises `FencedError` on every
rank and ends. The driver is not told, for its launch is well: what is left of an older group must
not end it.

What remains, because looking and writing are two operations: a process that is suspended in
between makes one change late.

- A late commit adds or replaces one whole checkpoint of the same run at its step. The newer group
  has computed, or will compute, the same: bit for bit with as many workers, else up to rounding.
  It is retained and removed like any other; a reader that meets the moment of the exchange takes
  it for damaged and goes on from the one before.
- A late removal takes one checkpoint that was not among the two newest when it was chosen. A newer
  group began with one of the two, or with none that was there.
- A group that is cut off after its start and before it takes its number takes it late, and shuts
  out the newer one. That one fails, is started again and takes the next number: a restart is lost.
  Groups of different drivers cannot do that to each other: their numbers begin where the number
  of their driver's lease says (`FIRST_OF_LEASE`).

In each case, a checkpoint that is found is whole and belongs to this run.
"""

import errno
import os
import re
import socket
import time
import uuid
from dataclasses import dataclass

from orchestrator.config.strict import StrictModel
from orchestrator.errors import IntegrityError, StageError
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.json_files import json_bytes, parse_json, parse_model
from orchestrator.storage.stores import Store

GROUP = ".group-"
"""Beginning of the name of a worker group's file."""
GONE = (errno.ENOENT, errno.ESTALE)
"""errno of reading a removed file: local, and on another host's NFS."""
FIRST_OF_LEASE = 1_000_000
"""Groups of the driver with lease n have the numbers from n times this."""
MAX_BYTES = 4096


class FencedError(StageError):
    """A newer worker group works on the run."""


class Claimant(StrictModel):
    """The process behind a claim: the content of its file."""

    pid: int
    """Process id."""
    host: str
    """Name of its machine."""
    since: int
    """Time of the claim, in seconds since the epoch."""
    token: str = ""
    """Distinguishes this claim from any other."""
    beat: int = 0
    """Counts up while the holder of a lease lives."""
    released: bool = False
    """The holder of a lease has ended by itself."""

    @classmethod
    def here(cls) -> "Claimant":
        """Return this process as a new claimant."""
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            since=int(time.time()),
            token=uuid.uuid4().hex,
        )

    @property
    def content(self) -> bytes:
        """Content of its file."""
        return json_bytes(self)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A right to change what is in a run's folder.

    Attributes:
        store: The run's folder, on storage that all workers share.
        number: The claim's; the highest one has the right.
        kind: Beginning of the names of the files that the claim competes with.
    """

    store: Store
    number: int
    kind: str = GROUP

    @classmethod
    def take(cls, store: Store, lease: int = 0, kind: str = GROUP) -> "Claim":
        """Take the next number and shut out all lower ones; on one rank of a group.

        Args:
            store: The run's folder.
            lease: Number of the driver's lease; 0: a lock of the file system keeps others out.
            kind: See `Claim`.

        Raises:
            StageError: The folder cannot be written, or a driver with a newer lease has the run.
        """
        while True:
            number = max(max(numbers(store, kind), default=0), lease * FIRST_OF_LEASE) + 1
            if lease and number >= (lease + 1) * FIRST_OF_LEASE:
                raise StageError(f"{store.root}: another driver has taken over this run.")
            claim = cls(store, number, kind)
            if claim.make(Claimant.here()):
                return claim

    def make(self, claimant: Claimant) -> bool:
        """Make the file and remove those of lower numbers; False: another claim was quicker.

        Raises:
            StageError: The folder cannot be written.
        """
        try:
            self.store.create(self.name, claimant.content)
        except FileExistsError:
            return False
        if max(numbers(self.store, self.kind), default=0) > self.number:
            self.store.remove(self.name)  # the names that were read were old
            return False
        for lower in numbers(self.store, self.kind):
            if lower < self.number:
                self.store.remove(Claim(self.store, lower, self.kind).name)
        return True

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.kind}{self.number:08d}"

    def claimant(self) -> Claimant | None:
        """Return who holds the claim; None: its file is gone or says nothing.

        Raises:
            StageError: The store cannot be read.
        """
        try:
            stored = self.store.read(self.name, MAX_BYTES)
            return parse_model(parse_json(stored, self.name), Claimant, self.name)
        except (FileNotFoundError, IntegrityError):
            return None

    def require(self) -> None:
        """Raise unless this claim still has the right.

        Raises:
            FencedError: A newer one has it; says which.
            StageError: The folder cannot be read.
        """
        if self._is_gone() or max(numbers(self.store, self.kind), default=0) > self.number:
            raise FencedError(
                f"{self.store.root}: worker group {self.number} was replaced{self._successor()}. "
                "It ends here and changes nothing more."
            )

    def _is_gone(self) -> bool:
        """Open the file, which asks the server: names may come from a cache."""
        try:
            self.store.read(self.name, MAX_BYTES)
        except FileNotFoundError:
            return True
        except IntegrityError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError):
                raise
            if cause.errno not in GONE:
                with explained(self.store.root):
                    raise cause from error
            return True
        return False

    def _successor(self) -> str:
        newest = Claim(self.store, max(numbers(self.store, self.kind), default=0), self.kind)
        claimant = newest.claimant()
        return "" if claimant is None else f" by group {newest.number} ({claimant})"


def numbers(store: Store, kind: str) -> list[int]:
    """Return the numbers of the claims of a kind."""
    named = re.compile(rf"{re.escape(kind)}(\d+)")
    return [int(match[1]) for match in map(named.fullmatch, store.files()) if match]
