"""Training checkpoints in a run folder: every rank writes, one rank commits, damage is survived.

``<run>/checkpoints/step-00000120/`` holds what ``Engine.save`` wrote and a manifest with the hash
of each file, written last. A folder without a valid manifest does not exist for a reader. The
folder must lie on storage that all workers share.
"""

import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.cluster.mailbox import Event
from orchestrator.errors import IntegrityError, OrchestratorError, StageError
from orchestrator.storage import (
    commit_folder,
    is_temporary,
    read_json,
    read_manifest,
    sweep_temporary,
    verify_folder,
)
from orchestrator.storage.temporary import MARK
from orchestrator.training.engine import Engine

_LOG = logging.getLogger(__name__)

SCHEMA_VERSION = 1
KEEP = 2  # never one: the newest may turn out to be damaged
EXTRA = "extra.json"
PREFIX = "step-"
WRITTEN = ".written-"
"""A rank's empty file that says that its part of a checkpoint is complete."""
FAILED = ".failed"
"""An empty file that says that some rank could not write its part."""
WRITE_DEADLINE_S = 600
WRITE_POLL_S = 0.02


class Group(Protocol):
    """The part of a ``WorkerContext`` that checkpoints need."""

    @property
    def rank(self) -> int:
        """This worker's place."""
        ...

    @property
    def world(self) -> int:
        """Number of workers."""
        ...

    def agree(self, value: int) -> int:
        """Return rank 0's value everywhere."""
        ...

    def everybody(self, succeeded: bool) -> bool:
        """Whether all ranks pass True."""
        ...

    def emit(self, event: Event) -> None:
        """Tell the driver."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        step: Optimizer steps done.
        path: Its folder, for ``Engine.load``.
        world: Number of workers that wrote it.
        extra: What the caller kept beside it.
    """

    step: int
    path: Path
    world: int
    extra: dict[str, Any]


class Pending:
    """A checkpoint that is being written in a thread of its own.

    Args:
        step: Optimizer steps done.
        staged: Where it is written.
        final: Where it will be.
        run: Writes this rank's part; rank 0's also waits for the others and commits.
    """

    def __init__(self, step: int, staged: Path, final: Path, run: Callable[[], None]) -> None:
        self.step, self.staged, self.final, self._run = step, staged, final, run
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._guarded, name="checkpoint", daemon=True)
        self._thread.start()

    def _guarded(self) -> None:
        try:
            self._run()
        except (OSError, OrchestratorError) as error:
            self._failed = error
            with suppress(OSError):  # where even this cannot be written, rank 0 waits in vain
                (self.staged / FAILED).touch()

    def settle(self, group: Group) -> None:
        """Wait until all ranks have written and rank 0 has committed; collective.

        Raises:
            StageError: Some rank could not write (on every rank; the old checkpoints stay).
        """
        self._thread.join()
        if group.everybody(self._failed is None):
            return
        shutil.rmtree(self.staged, ignore_errors=True)
        raise StageError(
            f"the checkpoint of step {self.step} could not be written to {self.final.parent} "
            f"({self._failed or 'another worker failed'}). Earlier checkpoints are intact: free "
            "some space and start the same command again."
        ) from self._failed


def _wait_for_all(staged: Path, world: int) -> None:
    """Wait for the marks of all ranks, and remove them.

    Raises:
        StageError: Some rank has not written within the deadline.
    """
    marks = [staged / f"{WRITTEN}{rank}" for rank in range(world)]
    deadline = time.monotonic() + WRITE_DEADLINE_S
    while not all(mark.exists() for mark in marks):
        if (staged / FAILED).exists():
            raise StageError("another worker failed")
        if time.monotonic() > deadline:
            missing = [mark.name.removeprefix(WRITTEN) for mark in marks if not mark.exists()]
            raise StageError(f"ranks {', '.join(missing)} did not write in {WRITE_DEADLINE_S} s")
        time.sleep(WRITE_POLL_S)
    for mark in marks:
        mark.unlink()


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        root: Folder of the checkpoints; made when needed.
        keep: How many committed checkpoints stay.
    """

    def __init__(self, root: Path, keep: int = KEEP) -> None:
        self.root = root
        self.keep = max(keep, KEEP)

    def commit(self, step: int, engine: Engine, extra: Mapping[str, Any], group: Group) -> Path:
        """Save ``engine`` on every rank, then make the checkpoint visible at once; collective.

        Raises:
            StageError: Some rank could not write (on every rank; the old checkpoints stay).
        """
        pending = self.begin(step, engine, extra, group)
        pending.settle(group)
        return pending.final

    def begin(
        self,
        step: int,
        engine: Engine,
        extra: Mapping[str, Any],
        group: Group,
        on_commit: Callable[[], None] | None = None,
    ) -> "Pending":
        """Copy the state of ``engine`` and write it while training goes on; collective.

        Args:
            step: Optimizer steps done.
            engine: What to save; it may be changed as soon as this returns.
            extra: JSON-able state of the caller; rank 0's is kept.
            group: The ranks.
            on_commit: Called on rank 0, from another thread, when the checkpoint is visible.

        Returns:
            What every rank must ``settle``, before the next one is begun.
        """
        final = self.root / f"{PREFIX}{step:08d}"
        # One name for all ranks; the mark makes readers ignore it until it is committed.
        staged = self.root / f"{final.name}{MARK}{group.agree(secrets.randbits(62)):016x}"
        write = engine.snapshot()
        manifest = {"schema_version": SCHEMA_VERSION, "step": step, "world": group.world}
        kept = json.dumps(dict(extra))

        def run() -> None:
            staged.mkdir(parents=True, exist_ok=True)
            write(staged)
            (staged / f"{WRITTEN}{group.rank}").touch()
            if group.rank == 0:
                _wait_for_all(staged, group.world)
                (staged / EXTRA).write_text(kept, encoding="utf-8")
                commit_folder(staged, final, manifest)
                self.retain()
                if on_commit is not None:
                    on_commit()

        return Pending(step, staged, final, run)

    def latest(self, group: Group) -> Checkpoint | None:
        """Return the newest checkpoint that verifies, chosen by rank 0; collective."""
        found = self.newest_valid(group) if group.rank == 0 else None
        step = group.agree(-1 if found is None else found.step)
        if step < 0:
            return None
        return found or self._read(self.root / f"{PREFIX}{step:08d}", verify=False)

    def newest_valid(self, group: Group) -> Checkpoint | None:
        """Verify from the newest on; damaged ones are reported and passed over."""
        # The run has one writer, and it is about to begin: whatever is uncommitted is left over.
        sweep_temporary(self.root, grace_s=0)
        for folder in reversed(self._committed()):
            try:
                return self._read(folder, verify=True)
            except IntegrityError as error:
                _LOG.warning("passing over a damaged checkpoint: %s", error)
                group.emit({"event": "damaged_checkpoint", "message": str(error)})
        return None

    def retain(self) -> None:
        """Remove all but the newest ``keep`` checkpoints."""
        for folder in self._committed()[: -self.keep]:
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove all checkpoints: the run is finished."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _committed(self) -> list[Path]:
        found = (path for path in self.root.glob(f"{PREFIX}*") if path.is_dir())
        return sorted(path for path in found if not is_temporary(path.name))

    def _read(self, folder: Path, *, verify: bool) -> Checkpoint:
        manifest = verify_folder(folder) if verify else read_manifest(folder)
        extra: dict[str, Any] = read_json(folder / EXTRA)
        return Checkpoint(int(manifest["step"]), folder, int(manifest["world"]), extra)
