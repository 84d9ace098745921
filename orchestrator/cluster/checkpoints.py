"""Training checkpoints in a run folder: every rank writes, one rank commits, damage is survived.

``<run>/checkpoints/step-00000120/`` holds what ``Engine.save`` wrote and a manifest with the hash
of each file, written last. A folder without a valid manifest does not exist for a reader. The
folder must lie on storage that all workers share.
"""

import json
import logging
import secrets
import shutil
from collections.abc import Mapping
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
        final = self.root / f"{PREFIX}{step:08d}"
        # One name for all ranks; the mark makes readers ignore it until it is committed.
        staged = self.root / f"{final.name}{MARK}{group.agree(secrets.randbits(62)):016x}"
        failed: Exception | None = None
        try:
            staged.mkdir(parents=True, exist_ok=True)
            engine.save(staged)
        except OSError as error:
            failed = error
        self._require(group, failed, staged, step)
        if group.rank == 0:
            failed = self._publish(staged, final, step, extra, group.world)
        self._require(group, failed, staged, step)
        return final

    def _publish(
        self, staged: Path, final: Path, step: int, extra: Mapping[str, Any], world: int
    ) -> Exception | None:
        manifest = {"schema_version": SCHEMA_VERSION, "step": step, "world": world}
        try:
            (staged / EXTRA).write_text(json.dumps(dict(extra)), encoding="utf-8")
            commit_folder(staged, final, manifest)
            self.retain()
        except (OSError, OrchestratorError) as error:
            return error
        return None

    def _require(self, group: Group, failed: Exception | None, staged: Path, step: int) -> None:
        """Raise on every rank if some rank failed."""
        if group.everybody(failed is None):
            return
        shutil.rmtree(staged, ignore_errors=True)
        raise StageError(
            f"the checkpoint of step {step} could not be written to {self.root} "
            f"({failed or 'another worker failed'}). Earlier checkpoints are intact: free some "
            "space and start the same command again."
        ) from failed

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
