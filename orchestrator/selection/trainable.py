"""One candidate on one data set, trained epoch by epoch; runs inside a Tune actor, without Ray.

After every epoch the training state and all results so far are committed as one folder. An epoch
whose result is committed is never trained again: asked for it once more (a paused, restored or
restarted trial), the stored result is returned.
"""

import functools
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import IntegrityError
from orchestrator.selection.journal import Row
from orchestrator.storage import commit_folder, read_json, verify_folder

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.training.finetune import FineTuner

POSITION_NAME = "position.json"
STATE_MANIFEST = "state.json"
TRAINER, PACKAGE = "trainer", "package"


class FineTuneTrial:
    """Fine-tunes one package on one task.

    Args:
        payload: JSON data: ``trial`` (id), ``package`` (reference), ``zoo``, ``task`` (a
            `DatasetSpec`), ``cache`` (folder or None), ``fine_tune`` (a `FineTuneConfig`),
            ``seed``, ``state`` (folder on storage that every worker sees), ``start`` (epochs done),
            ``keep_package`` (write the package's files after the last epoch).
    """

    def __init__(self, payload: dict[str, Any]) -> None:
        self._payload = payload
        self._state = Path(payload["state"])
        self._epoch = int(payload["start"])
        self._epochs = int(payload["fine_tune"]["epochs"])
        self._tuner: FineTuner | None = None

    def step(self) -> dict[str, Any]:
        """Train one epoch (or find it done) and return its row as JSON, with ``done``."""
        rows = self._committed_rows()
        row = rows[self._epoch] if self._epoch < len(rows) else self._train(rows)
        self._epoch += 1
        return {**row, "done": self._epoch >= self._epochs}

    def save(self, folder: Path) -> None:
        """Write where this trial stands; the state itself is committed by `step`."""
        (folder / POSITION_NAME).write_text(json.dumps({"epoch": self._epoch}))

    def load(self, folder: Path) -> None:
        """Go to where `save` was called."""
        self._epoch = int(json.loads((folder / POSITION_NAME).read_text())["epoch"])
        self._tuner = None

    def _train(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        started, tuner = time.perf_counter(), self._ready_tuner(len(rows))
        steps_before = tuner.steps_done
        tuner.train_epoch()
        measured = tuner.evaluate("validation")
        row: dict[str, Any] = {
            "trial": self._payload["trial"],
            "rung": len(rows) + 1,
            "validation": measured["accuracy"],
            "loss": measured["loss"],
            "test": None,
            "steps": tuner.steps_done - steps_before,
        }
        if row["rung"] == self._epochs:
            row["test"] = tuner.evaluate("test")["accuracy"]
        row |= {"seconds": time.perf_counter() - started, "finished_at": time.time(), "error": ""}
        self._commit(tuner, [*rows, row])
        return row

    def _ready_tuner(self, epochs_done: int) -> "FineTuner":
        """The tuner at ``epochs_done`` epochs: the one at hand, or built and restored."""
        if self._tuner is None or self._tuner.epochs_done != epochs_done:
            from orchestrator.training.config import FineTuneConfig
            from orchestrator.training.finetune import FineTuner

            self._tuner = FineTuner(
                _package_path(self._payload["zoo"], self._payload["package"]),
                _task(json.dumps(self._payload["task"]), self._payload["cache"]),
                FineTuneConfig.model_validate(self._payload["fine_tune"]),
                int(self._payload["seed"]),
            )
            if epochs_done:
                self._tuner.load(self._state / TRAINER)
        return self._tuner

    def _commit(self, tuner: "FineTuner", rows: list[dict[str, Any]]) -> None:
        """Commit state and rows together; what the next epoch cannot need is left out."""
        self._state.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".tmp-", dir=self._state.parent))
        try:
            if len(rows) < self._epochs:
                (staged / TRAINER).mkdir()
                tuner.save(staged / TRAINER)
            elif self._payload["keep_package"]:
                (staged / PACKAGE).mkdir()
                tuner.write(staged / PACKAGE)
            commit_folder(staged, self._state, {"rows": rows}, STATE_MANIFEST)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _committed_rows(self) -> list[dict[str, Any]]:
        return committed_rows(self._state)


class CurveTrial:
    """Plays a stored learning curve: `select replay` through the real scheduler, and its tests.

    Args:
        payload: ``trial``, ``curve`` (validation per epoch, then the final test), ``start``, and
            ``fails_at`` (an epoch that raises, 0: never).
    """

    def __init__(self, payload: dict[str, Any]) -> None:
        self._payload = payload
        self._epoch = int(payload["start"])

    def step(self) -> dict[str, Any]:
        """Reveal the next value of the curve."""
        self._epoch += 1
        if self._epoch == self._payload.get("fails_at", 0):
            raise RuntimeError(f"epoch {self._epoch} fails as planned")
        curve = self._payload["curve"]
        last = self._epoch == len(curve) - 1
        row = Row(self._payload["trial"], self._epoch, curve[self._epoch - 1])
        return {
            **{name: getattr(row, name) for name in Row.__slots__},
            "test": curve[-1] if last else None,
            "finished_at": time.time(),
            "done": last,
        }

    def save(self, folder: Path) -> None:
        """Write where this trial stands."""
        (folder / POSITION_NAME).write_text(json.dumps({"epoch": self._epoch}))

    def load(self, folder: Path) -> None:
        """Go to where `save` was called."""
        self._epoch = int(json.loads((folder / POSITION_NAME).read_text())["epoch"])


def committed_rows(state: Path) -> list[dict[str, Any]]:
    """Rows of the epochs whose state is committed and whole.

    Raises:
        IntegrityError: The state folder exists but its bytes are not what its manifest says.
    """
    if not (state / STATE_MANIFEST).exists():
        return []
    try:
        manifest = verify_folder(state, STATE_MANIFEST)
    except IntegrityError as error:
        raise IntegrityError(f"{error} Delete {state} to train this trial again.") from error
    return list(manifest["rows"])


@functools.lru_cache(maxsize=8)
def _package_path(zoo: str, reference: str) -> Path:
    """Resolved (and verified) once a process: a reference with a version never changes."""
    from orchestrator.zoo import Zoo

    return Path(Zoo(zoo).get(reference).path)


@functools.lru_cache(maxsize=4)
def _task(spec: str, cache: str | None) -> "TaskData":
    """The data of a task, once a process: reused actors train many models on it."""
    from orchestrator.data.rows.tasks import load_task
    from orchestrator.data.spec import DatasetSpec

    return load_task(DatasetSpec.model_validate_json(spec), Path(cache) if cache else None)


def read_state(state: Path) -> dict[str, Any]:
    """The manifest of a committed state, without checking its files."""
    return dict(read_json(state / STATE_MANIFEST))
