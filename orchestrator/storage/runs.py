"""Run folders: one writer, one config, and a journal so that no finished step runs twice."""

import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from orchestrator.config import JobConfig, JobResult, dump_yaml
from orchestrator.config.changes import PLACES, change_of
from orchestrator.config.job import RunProgress
from orchestrator.errors import ConfigError, InputError, OrchestratorError, Problem
from orchestrator.storage.atomic import atomic_write_bytes, sweep_temporary
from orchestrator.storage.files import sha256_bytes
from orchestrator.storage.json_files import Model, json_bytes, jsonable, parse_model
from orchestrator.storage.locks import FileLock, LockedError
from orchestrator.storage.remote.mirror import Mirror, local_folder
from orchestrator.storage.remote.mirrored_run import LOGS, MirroredRun
from orchestrator.storage.run_changes import (
    Changed,
    changes_between,
    refused_changes,
    settings_of,
)
from orchestrator.storage.run_state import (
    CONFIG_NAME,
    IDENTITY,
    JOURNAL_NAME,
    LOCK_NAME,
    PINNED,
    RESULT_NAME,
    STAGE_NAME,
    STATE_FILES,
    has_only_begun,
    read_state,
)
from orchestrator.storage.stores import LocalStore, Store
from orchestrator.storage.uris import local_path

PROLONGED = "prolonged"
"""Step under which it is recorded how often the run was prolonged."""
FINISHED = ("done", "refused")
"""Status of a result that a run has for good."""
MAX_STEP_BYTES = 180
"""Longest quoted step name used as a file name; longer ones end in their hash."""

logger = logging.getLogger(__name__)


class RunFolder:
    """``<run.dir>/<run.name>/``: the state of one run, held by one process at a time.

    Where ``run.dir`` is on an object store, all of it is written to the folder there and to a
    staging folder of this machine.

    Attributes:
        path: The folder; for a run on an object store, its staging folder.
        address: The folder as its user knows it.
        remote: The folder on an object store; None: it is local or mounted.
        config: The config of the run.
        stage: The stage that runs, like ``pretrain``.
        id: What distinguishes this run from all others, whatever their names; made when the run
            is first opened.
        changed: Settings that differ from those of the last start, by path.
    """

    id: str
    changed: Mapping[str, Changed]

    def __init__(self, config: JobConfig, stage: str, outcome: Sequence[str] = ()) -> None:
        folder, name = local_path(config.run.dir), config.run.name
        self.remote = None
        if folder is None:
            self.remote = MirroredRun(f"{config.run.dir.rstrip('/')}/{name}")
            self.path, self.address = self.remote.mirror.folder, self.remote.address
        else:
            self.path = folder.absolute() / name
            self.address = str(self.path)
        self.config = config
        self.stage = stage
        self._outcome = outcome
        self._lock = FileLock(self.path / LOCK_NAME)

    @classmethod
    def open(cls, config: JobConfig, stage: str, outcome: Sequence[str] = ()) -> "RunFolder":
        """Take the folder of a run: a new one, or one that this config may continue.

        Args:
            config: Names the run; written to ``job.yaml``.
            stage: The stage, like ``pretrain``.
            outcome: Folders of the run that belong to its result: removed when a finished run is
                prolonged.

        Raises:
            ConfigError: The name belongs to another stage, or to a run with other settings that
                decide its result; lists them.
            InputError: Another process works on this run now, or the object store has no
                conditional writes.
            StageError: The folder cannot be written.
        """
        run = cls(config, stage, outcome)
        try:
            run._lock.acquire()
            if run.remote is not None:
                run.remote.open(STATE_FILES, JOURNAL_NAME)
            run._claim()
        except LockedError as error:
            run.close()
            advice = "Wait for it, or choose another run.name."
            raise InputError(f"run {config.run.name!r} is in use: {error} {advice}") from error
        except BaseException:
            run.close()
            raise
        return run

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, InputError) and has_only_begun(self.path, self._store()):
                self._remove()
        except (OSError, OrchestratorError) as failed:  # the reason that is raised stands
            logger.warning(
                "event=refused_run_not_removed path=%s reason=%r", self.path, str(failed)
            )
        finally:
            self.close()

    @property
    def lease(self) -> int:
        """Number of the lease on the store, see `Claim.take`; 0: a lock keeps other drivers out."""
        return 0 if self.remote is None else self.remote.lease

    def close(self) -> None:
        """Let another process take the run."""
        if self.remote is not None:
            self.remote.close()
        self._lock.release()

    def share(self, folder: Path) -> str:
        """Return what workers on any host find a committed folder by, like `local_copy`.

        A folder beside the run's is copied to the object store; all others stay as they are.

        Raises:
            StageError: The store failed for too long.
        """
        beside = f"{self.config.run.dir.rstrip('/')}/{folder.parent.name}"
        if self.remote is None or folder.parent.resolve() != local_folder(beside).resolve():
            return str(folder.resolve())
        Mirror.of(beside).push_folder(folder.name)
        return f"{beside}/{folder.name}"

    def fetch(self, name: str) -> None:
        """Make a committed folder of the run whole on this machine."""
        if self.remote is not None:
            self.remote.mirror.pull_folder(name)

    def drop(self, name: str) -> None:
        """Remove a folder of the run."""
        if self.remote is not None:
            self.remote.mirror.store.drop(name)
        shutil.rmtree(self.path / name, ignore_errors=True)

    def finished(self) -> JobResult | None:
        """Return the result when this run is done already; a damaged result counts as none.

        Raises:
            RefusedError: The run is done, and a gate refused its package.
        """
        stored = read_state(self.path / RESULT_NAME)
        if stored is None or stored.get("status") not in FINISHED:
            return None
        result: JobResult = JobResult.model_validate(stored)
        return result.accepted()

    def finish(self, result: JobResult) -> None:
        """Record the result; the same run returns it at once from now on."""
        self._write(self.path / RESULT_NAME, result.model_dump(mode="json"))

    def done(self, step: str) -> dict[str, Any] | None:
        """Return what `mark` recorded for a step, or None when it has to run."""
        stored = read_state(self._step_path(step))
        return stored["payload"] if stored is not None and stored.get("step") == step else None

    def once(
        self, step: str, kind: type[Model], make: Callable[[], Model], *, work: bool = False
    ) -> Model:
        """Return what a step found when it was first reached: made now, or recorded then.

        For what must not change while a run is continued, like the version behind an alias.

        Args:
            step: As for `mark`.
            kind: What the step records; fields that are None are left out.
            make: Finds it.
            work: Whether finding it is work of the run, as for `mark`, and not a `pin`.

        Raises:
            IntegrityError: What is recorded is not of this kind.
        """
        found = self.done(step)
        if found is not None:
            return parse_model(found, kind, str(self._step_path(step)))
        made = make()
        (self.mark if work else self.pin)(step, made.model_dump(mode="json", exclude_none=True))
        return made

    def mark(self, step: str, payload: dict[str, Any]) -> None:
        """Record that a step is finished, with what the following steps need of it.

        Args:
            step: Any text; a later mark of the same step replaces this one.
            payload: JSON data; NumPy values and paths are converted, NaN becomes null.
        """
        self._write(self._step_path(step), {"step": step, "payload": payload})

    def pin(self, step: str, payload: dict[str, Any], files: Sequence[str] = ()) -> None:
        """Record what a run begins with, like `mark`, though nothing is finished by it.

        A run that is refused for its input when all its steps are pins leaves no folder.

        Args:
            step: As for `mark`.
            payload: As for `mark`.
            files: Files of the run that belong to it.
        """
        stored = {"step": step, "payload": payload, PINNED: list(files)}
        self._write(self._step_path(step), stored)

    def _remove(self) -> None:
        """Remove the run, what it began with first: its name is free again."""
        if self.remote is not None:
            self.remote.remove([JOURNAL_NAME, LOGS, *STATE_FILES])
        shutil.rmtree(self.path / JOURNAL_NAME)
        shutil.rmtree(self.path)

    def _step_path(self, step: str) -> Path:
        name = quote(step, safe=" ,=@+()").replace(".", "%2E")
        if len(name) > MAX_STEP_BYTES or not name:
            name = f"{name[:80]}-{sha256_bytes(step.encode())[:32]}"
        return self.path / JOURNAL_NAME / f"{name}.json"

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        plain = jsonable(content)
        stored = {**plain, "sha256": sha256_bytes(json_bytes(plain))}
        self._write_bytes(path, json_bytes(stored))

    def _write_bytes(self, path: Path, data: bytes) -> None:
        if self.remote is not None:
            self.remote.write(path, data)
        atomic_write_bytes(path, data)

    @property
    def package_id(self) -> str:
        """The run's id in the package that it commits; a prolonged run commits another one."""
        times = self._times_prolonged()
        return f"{self.id}-{times}" if times else self.id

    def _times_prolonged(self) -> int:
        return int((self.done(PROLONGED) or {}).get("times", 0))

    def _claim(self) -> None:
        """Compare with what the folder was made for, then write the config and the stage."""
        for folder in (self.path, self.path / JOURNAL_NAME):
            sweep_temporary(folder, grace_s=0)  # we hold the lock: whoever wrote them is gone
        status = (read_state(self.path / RESULT_NAME) or {}).get("status")
        finished = status in FINISHED
        job = self.path / CONFIG_NAME
        before = settings_of(self.config, job) if job.exists() else None
        self.changed = {} if before is None else changes_between(before, self.config)
        self._require_stage()
        if before is not None:
            progress = RunProgress(status if finished else None, self._store().folders)
            self._require(refused_changes(self.changed, before, self.config, progress))
        self.id = self._identity()
        if finished and before is not None and self.config.prolongs(before):
            self._reopen()
        elif finished and self.changed:
            self._warn_of_no_effect()
            return
        self._write(self.path / STAGE_NAME, {"stage": self.stage})
        self._write_bytes(job, dump_yaml(self.config).encode("utf-8"))

    def _require_stage(self) -> None:
        stored = read_state(self.path / STAGE_NAME)
        if stored is None or stored.get("stage") == self.stage:
            return
        made_by = f"belongs to a run of the stage {stored.get('stage')!r}, not {self.stage!r}"
        message = f"{self.config.run.name!r} {made_by}. Choose another run.name."
        raise ConfigError(self._title(), [Problem("run.name", message)])

    def _require(self, problems: list[Problem]) -> None:
        if problems:
            last = problems[-1]
            problems[-1] = Problem(last.path, f"{last.message} {self.config.way_on()}")
            raise ConfigError(self._title(), problems)

    def _title(self) -> str:
        return f"run {self.config.run.name!r} in {self.address}"

    def _store(self) -> Store:
        return LocalStore(self.path) if self.remote is None else self.remote.mirror.store

    def _reopen(self) -> None:
        """Make a finished run an unfinished one; killed in between, it is made so again."""
        stored = read_state(self.path / RESULT_NAME)
        self.mark(PROLONGED, {"times": self._times_prolonged() + 1})
        for name in self._outcome:
            self.drop(name)
        self._write(self.path / RESULT_NAME, {**(stored or {}), "status": "interrupted"})

    def _warn_of_no_effect(self) -> None:
        useless = [path for path in self.changed if change_of(PLACES, path) is None]
        if useless:
            names, run = ", ".join(useless), self.config.run.name
            logger.warning("run %r is finished; without effect are now: %s", run, names)

    def _identity(self) -> str:
        """Return the id of this run, made and recorded when it has none."""
        # Older run folders of `continual` and `quantize` hold it beside the package they pinned.
        for step, key in ((IDENTITY, "id"), ("package", "run_id")):
            found = (self.done(step) or {}).get(key)
            if isinstance(found, str):
                return found
        made = uuid.uuid4().hex
        self.pin(IDENTITY, {"id": made})
        return made
