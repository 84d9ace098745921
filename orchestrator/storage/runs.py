"""Run folders: one writer, one config, and a journal so that no finished step runs twice."""

import logging
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from pydantic import JsonValue

from orchestrator.config import JobConfig, JobResult, dump_yaml, load_config
from orchestrator.config.strict import show
from orchestrator.config.yaml_files import parse_yaml, read_text
from orchestrator.errors import ConfigError, InputError, IntegrityError, Problem
from orchestrator.storage.atomic import atomic_write_bytes, sweep_temporary
from orchestrator.storage.files import sha256_bytes
from orchestrator.storage.json_files import Model, json_bytes, jsonable, parse_model, read_json
from orchestrator.storage.locks import FileLock, LockedError
from orchestrator.storage.remote.mirrored_run import MirroredRun
from orchestrator.storage.uris import local_path

CONFIG_NAME = "job.yaml"
STAGE_NAME = "stage.json"
RESULT_NAME = "result.json"
JOURNAL_NAME = "journal"
LOCK_NAME = ".lock"
IDENTITY = "identity"
"""Step under which the id of the run is recorded."""
STATE_FILES = (CONFIG_NAME, STAGE_NAME, RESULT_NAME)
MAX_STEP_BYTES = 180
"""Longest quoted step name used as a file name; longer ones end in their hash."""

_MAY_DIFFER = re.compile(
    r"^(?:run\.dir|run\.zoo|train\.hang_timeout_s|(?:cluster|tracking)(?:\..*)?)$"
)
"""Settings for place, tracking and timeouts; none of them changes what a run computes."""
logger = logging.getLogger(__name__)


class RunFolder:
    """``<run.dir>/<run.name>/``: the state of one run, held by one process at a time.

    Where ``run.dir`` is on an object store, all of it is written to the folder there and to a
    staging folder of this machine.

    Attributes:
        path: The folder; the staging folder of one on an object store.
        address: The folder as its user knows it.
        remote: The folder on an object store; None: it is local or mounted.
        config: The config of the run.
        stage: The stage that runs, like ``pretrain``.
        id: What distinguishes this run from all others, whatever their names; made when the run
            is first opened, and written into the package that it commits.
    """

    id: str

    def __init__(self, config: JobConfig, stage: str) -> None:
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
        self._lock = FileLock(self.path / LOCK_NAME)

    @classmethod
    def open(cls, config: JobConfig, stage: str) -> "RunFolder":
        """Take the folder of a run: a new one, or one that the same config made.

        Args:
            config: Names the run; written to ``job.yaml``.
            stage: The stage, like ``pretrain``.

        Raises:
            ConfigError: The name belongs to another stage or to a run with other settings; lists
                the settings that differ.
            InputError: Another process works on this run now, or the object store has no
                conditional writes.
            StageError: The folder cannot be written.
        """
        run = cls(config, stage)
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
        self.close()

    def close(self) -> None:
        """Let another process take the run."""
        if self.remote is not None:
            self.remote.close()
        self._lock.release()

    def finished(self) -> JobResult | None:
        """Return the result when this run is done already; a damaged result counts as none.

        Raises:
            RefusedError: The run is done, and a gate refused its package.
        """
        stored = self._read(self.path / RESULT_NAME)
        if stored is None or stored.get("status") not in ("done", "refused"):
            return None
        result: JobResult = JobResult.model_validate(stored)
        return result.accepted()

    def finish(self, result: JobResult) -> None:
        """Record the result; the same run returns it at once from now on."""
        self._write(self.path / RESULT_NAME, result.model_dump(mode="json"))

    def done(self, step: str) -> dict[str, Any] | None:
        """Return what `mark` recorded for a step, or None when it has to run."""
        stored = self._read(self._step_path(step))
        return stored["payload"] if stored is not None and stored.get("step") == step else None

    def once(self, step: str, kind: type[Model], make: Callable[[], Model]) -> Model:
        """Return what a step found when it was first reached: made now, or recorded then.

        For what must not change while a run is continued, like the version behind an alias.

        Args:
            step: As for `mark`.
            kind: What the step records; fields that are None are left out.
            make: Finds it.

        Raises:
            IntegrityError: What is recorded is not of this kind.
        """
        found = self.done(step)
        if found is not None:
            return parse_model(found, kind, str(self._step_path(step)))
        made = make()
        self.mark(step, made.model_dump(mode="json", exclude_none=True))
        return made

    def mark(self, step: str, payload: dict[str, Any]) -> None:
        """Record that a step is finished, with what the following steps need of it.

        Args:
            step: Any text; a later mark of the same step replaces this one.
            payload: JSON data; NumPy values and paths are converted, NaN becomes null.
        """
        self._write(self._step_path(step), {"step": step, "payload": payload})

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

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Return what `_write` stored; damaged content is logged and counts as not there."""
        try:
            stored = read_json(path)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            logger.warning("event=damaged_run_state path=%s reason=%r", path, str(error))
            return None
        digest = stored.pop("sha256", None) if isinstance(stored, dict) else None
        if digest is None or digest != sha256_bytes(json_bytes(stored)):
            logger.warning("event=damaged_run_state path=%s reason='its hash differs'", path)
            return None
        return dict(stored)

    def _claim(self) -> None:
        """Compare with what the folder was made for, then write the config and the stage."""
        for folder in (self.path, self.path / JOURNAL_NAME):
            sweep_temporary(folder, grace_s=0)  # we hold the lock: whoever wrote them is gone
        stored = self._read(self.path / STAGE_NAME)
        problems = []
        if stored is not None and stored.get("stage") != self.stage:
            made_by = f"belongs to a run of the stage {stored.get('stage')!r}, not {self.stage!r}"
            problems.append(Problem("run.name", f"{self.config.run.name!r} {made_by}."))
        if (self.path / CONFIG_NAME).exists():
            problems += self._differences()
        if problems:
            advice = f"Choose another run.name, or delete {self.address} to start again."
            last = problems[-1]
            problems[-1] = Problem(last.path, f"{last.message} {advice}")
            raise ConfigError(f"run {self.config.run.name!r} in {self.address}", problems)
        self._write(self.path / STAGE_NAME, {"stage": self.stage})
        self._write_bytes(self.path / CONFIG_NAME, dump_yaml(self.config).encode("utf-8"))
        self.id = self._identity()

    def _identity(self) -> str:
        """Return the id of this run, made and recorded when it has none."""
        # Older run folders of `continual` and `quantize` hold it beside the package they pinned.
        for step, key in ((IDENTITY, "id"), ("package", "run_id")):
            found = (self.done(step) or {}).get(key)
            if isinstance(found, str):
                return found
        made = uuid.uuid4().hex
        self.mark(IDENTITY, {"id": made})
        return made

    def _differences(self) -> list[Problem]:
        before, now = flatten(self._stored_config()), flatten(self.config.model_dump(mode="json"))
        return [
            Problem(key, f"is {_shown(now, key)} now, but the run has {_shown(before, key)}.")
            for key in dict.fromkeys([*now, *before])
            if now.get(key, _ABSENT) != before.get(key, _ABSENT) and not _MAY_DIFFER.match(key)
        ]

    def _stored_config(self) -> Any:
        """Return the config the run was made with, with defaults for settings added since."""
        path = self.path / CONFIG_NAME
        try:
            return load_config(type(self.config), path).model_dump(mode="json")
        except ConfigError:
            return parse_yaml(read_text(path), str(path))[0]


_ABSENT = object()


def flatten(value: Any, prefix: str = "") -> dict[str, JsonValue]:
    """Return nested mappings and lists as ``a.0.b`` → value; empty ones are values."""
    if isinstance(value, dict) and value:
        items = list(value.items())
    elif isinstance(value, list) and value:
        items = list(enumerate(value))
    else:
        return {prefix: value}
    flat = {}
    for key, item in items:
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _shown(flat: dict[str, JsonValue], key: str) -> str:
    return show(flat[key]) if key in flat else "not set"
