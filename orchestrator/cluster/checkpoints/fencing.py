"""One worker group writes to a run: a newer group shuts out what is left of an older one.

A host that is cut off from the head trains on until it notices, which takes as long as health
checks do, and may reach the run's storage all the while. So may the workers of a driver that was
killed. Without a fence such a group would replace and remove checkpoints of the group that goes on.

Before a group reads anything, its rank 0 takes the next number in the run's folder: it makes the
file ``.group-<number>``, which must not be there (exclusive creation, atomic on NFS as well), and
removes those of lower numbers. A group may write as long as its file is there. It looks before it
commits, before each removal of a checkpoint, and before it sweeps away rests of killed writers;
when the file is gone or a higher one is there, it raises `FencedError` on every rank and ends. The
driver is not told, for its launch is well: what is left of an older group must not end it.

What remains, because looking and renaming are two operations: a process that is suspended in
between makes one change late.

- A late commit adds or replaces one whole checkpoint of the same run at its step. The newer group
  has computed, or will compute, the same: bit for bit with as many workers, else up to rounding.
  It is retained and removed like any other; a reader that meets the moment of the exchange takes
  it for damaged and goes on from the one before.
- A late removal takes one checkpoint that was not among the two newest when it was chosen. A newer
  group began with one of the two, or with none that was there.
- A group that is cut off after its start and before it takes its number takes it late, and shuts
  out the newer one. That one fails, is started again and takes the next number: a restart is lost.

In each case, a checkpoint that is found is whole and belongs to this run.
"""

import errno
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import IntegrityError, StageError
from orchestrator.storage import operations, read_json
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.json_files import json_bytes

GROUP = ".group-"
"""Beginning of the name of a group's file."""
GONE = (errno.ENOENT, errno.ESTALE)
"""errno of reading a removed file: local, and on another host's NFS."""
_NUMBERED = re.compile(rf"{re.escape(GROUP)}(\d+)")


class FencedError(StageError):
    """A newer worker group works on the run."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker group's right to change what is in a run's folder.

    Attributes:
        folder: The run's folder, on storage that all workers share.
        number: The group's; the highest one has the right.
    """

    folder: Path
    number: int

    @classmethod
    def take(cls, folder: Path) -> "Claim":
        """Take the next number and shut out all lower ones; on one rank of a group.

        Raises:
            StageError: The folder cannot be written.
        """
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": int(time.time())}
        with explained(folder):
            operations.make_folder(folder)
            while True:
                number = max(_numbers(folder), default=0) + 1
                claim = cls(folder, number)
                try:
                    operations.write_file(claim.path, json_bytes(holder))
                except FileExistsError:  # another group was quicker
                    continue
                if max(_numbers(folder), default=0) <= number:
                    break
                operations.remove(claim.path)  # the names that were read were old
            for lower in _numbers(folder):
                if lower < claim.number:
                    operations.remove(cls(folder, lower).path)
        return claim

    @property
    def path(self) -> Path:
        """The group's file."""
        return self.folder / f"{GROUP}{self.number:08d}"

    def require(self) -> None:
        """Raise unless this group still has the right.

        Raises:
            FencedError: A newer group has it; says which.
            StageError: The folder cannot be read.
        """
        with explained(self.folder):
            try:
                self.path.read_bytes()  # opening asks the server; names may come from a cache
                replaced = max(_numbers(self.folder), default=0) > self.number
            except OSError as error:
                if error.errno not in GONE:
                    raise
                replaced = True
        if replaced:
            raise FencedError(
                f"{self.folder}: worker group {self.number} was replaced{self._successor()}. "
                "It ends here and changes nothing more."
            )

    def _successor(self) -> str:
        newest = Claim(self.folder, max(_numbers(self.folder), default=0))
        try:
            holder = read_json(newest.path)
        except (OSError, IntegrityError):
            return ""
        return f" by group {newest.number} (process {holder['pid']} on {holder['host']})"


def _numbers(folder: Path) -> list[int]:
    found = (_NUMBERED.fullmatch(path.name) for path in folder.glob(f"{GROUP}*"))
    return [int(match[1]) for match in found if match]
