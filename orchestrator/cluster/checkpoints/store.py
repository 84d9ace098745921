"""Training checkpoints in a run folder: all ranks write, one commits, damaged ones are passed over.

``<run>/checkpoints/step-00000120/`` holds the files that ``saving`` lists. A folder without a valid
manifest does not exist for a reader. The folder must lie on storage that all workers share.
"""

import json
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.cluster.checkpoints.meetings import Meeting, SharedFolder
from orchestrator.cluster.checkpoints.reading import (
    EXTRA,
    HEADER,
    PREFIX,
    SCHEMA_VERSION,
    Checkpoint,
    Source,
    read_checkpoint,
    step_of,
    verify_together,
)
from orchestrator.cluster.checkpoints.saving import Part, Pending, on_rank_zero
from orchestrator.config.strict import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.storage import (
    FileEntry,
    commit_folder,
    is_temporary,
    read_manifest,
    sweep_temporary,
    write_hashed,
)
from orchestrator.storage.atomic import MARK
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.disk_failures import explained
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.state_index import INDEX, RankPart, write_index
from orchestrator.training.events import CheckpointDamaged
from orchestrator.training.worker_context import StoredState, WorkerContext

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, below the run's own."""
KEEP = 2  # never one: the newest may turn out to be damaged
MARGIN = 1.5
"""Space that must be free for a checkpoint, as a multiple of the size of the previous one."""
BYTES_PER_ELEMENT = 12
"""Estimate for the first checkpoint: an fp32 weight and two moments."""
NONE_THERE = -1
"""Agreed on by all ranks in place of a step."""
Require = Callable[[StoredState], None]


def _nothing_more(_: StoredState) -> None:
    """A checkpoint is whole when its own files are."""


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        root: Folder of the checkpoints; made when needed.
        keep: How many committed checkpoints stay.
    """

    def __init__(self, root: Path, keep: int = KEEP) -> None:
        self.root = root
        self.where = str(root)
        self.keep = max(keep, KEEP)

    def commit(self, step: int, engine: Engine, extra: StrictModel, group: WorkerContext) -> Path:
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
        extra: StrictModel,
        group: WorkerContext,
        on_commit: Callable[[], None] | None = None,
        keep_every: int = 0,
        before_commit: Callable[[], None] | None = None,
    ) -> "Pending":
        """Copy the state of ``engine`` and write it while training goes on; collective.

        Args:
            step: Optimizer steps done.
            engine: What to save; it may be changed as soon as this returns.
            extra: State of the caller; rank 0's is stored; it may be changed as well.
            group: The ranks.
            on_commit: Called on rank 0, from another thread, when the checkpoint is visible.
            keep_every: Checkpoints of multiples of this step are never removed; 0: all may be.
            before_commit: Called on rank 0, from another thread, before the checkpoint is visible.

        Returns:
            What every rank must ``settle``, before the next one is begun.
        """
        final = self._new_folder(step)
        # Not `storage.staged`: all ranks write under one name, and after this call has returned.
        # The mark makes readers ignore the folder until it is committed.
        staged = (
            self.root
            / f"{final.name}{MARK}{group.broadcast_from_rank_zero(secrets.randbits(62)):016x}"
        )
        header = {"schema_version": SCHEMA_VERSION, "step": step, "world": group.world}
        # Here and not in the thread: lists of the caller may grow while the checkpoint is written.
        stored = {HEADER: header, "extra": extra.model_dump(mode="json")}

        def commit(parts: Sequence[RankPart]) -> None:
            known = {name: entry for part in parts for name, entry in part.files.items()}
            with explained(final):
                known[INDEX] = write_index(staged, parts)
                known[EXTRA] = write_hashed(staged / EXTRA, [json.dumps(stored).encode()])
            group.require_claim()
            if before_commit is not None:
                before_commit()
            self._publish(staged, final, header, known)
            self.retain(step, group, keep_every)
            if on_commit is not None:
                on_commit()

        needed = self._needed_bytes(engine) if group.rank == 0 else 0
        meeting = self._meeting(staged, final)
        return Pending(Part(step, meeting, final, needed, engine.snapshot(), commit), group)

    def _new_folder(self, step: int) -> Path:
        """Return the folder of a checkpoint that is to be written."""
        return self.root / f"{PREFIX}{step:08d}"

    def _meeting(self, staged: Path, final: Path) -> Meeting:
        del final  # rank 0 gives the folder its name
        return SharedFolder(staged)

    def _publish(
        self, staged: Path, final: Path, header: dict[str, int], known: Mapping[str, FileEntry]
    ) -> None:
        """Commit what all ranks have written."""
        commit_folder(staged, final, header, MANIFEST_NAME, known)

    def _needed_bytes(self, engine: Engine) -> int:
        """Return the space that must be free for the next checkpoint."""
        for folder in reversed(self._committed()):
            try:
                files = read_manifest(folder)["files"]
            except IntegrityError:
                continue  # resuming reports it
            return int(MARGIN * sum(entry["bytes"] for entry in files.values()))
        ranks = 1 if engine.replicated else engine.world * engine.tensor_ranks
        elements = sum(shard.master.numel() for shard in engine.shards())
        return elements * ranks * BYTES_PER_ELEMENT

    def latest(self, group: WorkerContext, require: Require = _nothing_more) -> Checkpoint | None:
        """Return the newest checkpoint that verifies; collective.

        Args:
            group: The ranks.
            require: See `newest_valid`.

        Raises:
            IntegrityError: There are some, and all are damaged (on every rank). Beginning anew, as
                without any, would remove what may still be restored.
            StageError: The storage fails.
        """
        found = self.newest_valid(group, require)
        if found is None and group.broadcast_from_rank_zero(int(bool(self.steps()))):
            raise IntegrityError(
                f"{self.where}: no checkpoint is whole, see the messages before this one. Restore "
                "one, or begin with step 0 under another run.name."
            )
        return found

    def newest_valid(
        self, group: WorkerContext, require: Require = _nothing_more
    ) -> Checkpoint | None:
        """Verify from the newest on; damaged ones are reported and passed over; collective.

        Args:
            group: The ranks.
            require: Verifies what a checkpoint needs beside its own files; collective. It raises
                IntegrityError on every rank where that is damaged.

        Raises:
            StageError: The storage fails.
        """

        def begin() -> list[int]:
            # The run has one writer, and it is about to begin: what is uncommitted is left over.
            group.require_claim()
            self._sweep()
            return self.steps()

        steps = on_rank_zero(begin, group) or []
        while True:
            step = group.broadcast_from_rank_zero(steps.pop() if steps else NONE_THERE)
            if step == NONE_THERE:
                return None
            try:
                found = verify_together(self._source(step), group)
                require(found)
                return found
            except IntegrityError as error:
                if group.rank == 0:
                    logger.warning("passing over a damaged checkpoint: %s", error)
                group.emit(CheckpointDamaged(message=str(error)))

    def retain(self, step: int, group: WorkerContext, keep_every: int = 0) -> None:
        """Remove all but the newest ``keep`` checkpoints up to the one just committed.

        Later ones were passed over as damaged when the run went back before them. Were they
        counted among the newest, they would push out the good ones.

        Args:
            step: That of the checkpoint just committed.
            group: Removes nothing once a newer one has claimed the run.
            keep_every: Of the older ones, multiples of this step stay; 0: none does.

        Raises:
            FencedError: A newer group has claimed the run.
        """
        committed = self.steps()
        later = [each for each in committed if each > step]
        older = committed[: len(committed) - len(later)][: -self.keep]
        for each in [each for each in older if not _stays(each, keep_every)] + later:
            group.require_claim()
            self._remove(each)

    def clear(self, keep_every: int = 0, keep_last: int = 0) -> None:
        """Remove the checkpoints that a finished run does not keep.

        Args:
            keep_every: Multiples of this step stay for other runs to start from; 0: none does.
            keep_last: Number of last ones that stay.
        """
        committed = self.steps()
        last = committed[len(committed) - keep_last :] if keep_last else []
        stay = {each for each in committed if each in last or _stays(each, keep_every)}
        for step in committed:
            if step not in stay:
                self._remove(step)
        if not stay:
            shutil.rmtree(self.root, ignore_errors=True)

    def _remove(self, step: int) -> None:
        shutil.rmtree(self._folder(step), ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed writers left."""
        sweep_temporary(self.root, grace_s=0)

    def _source(self, step: int) -> Source:
        """Return where a committed checkpoint is read."""
        return Source(self._folder(step))

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, in order."""
        return [step_of(folder.name) for folder in self._committed()]

    def at(self, step: int, *, verify: bool) -> Checkpoint:
        """Return the checkpoint of a step.

        Args:
            step: One of ``steps``.
            verify: Compare all files with their hashes.

        Raises:
            IntegrityError: It is damaged.
            InputError: It is of a version that this one cannot read.
        """
        return read_checkpoint(self._source(step), verify=verify)

    def _folder(self, step: int) -> Path:
        return self.root / f"{PREFIX}{step:08d}"

    def _committed(self) -> list[Path]:
        found = (path for path in self.root.glob(f"{PREFIX}*") if path.is_dir())
        whole = (path for path in found if not is_temporary(path.name))
        return sorted(whole, key=lambda path: step_of(path.name))


def _stays(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
