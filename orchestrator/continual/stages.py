"""What finished units of a stream left behind, one committed folder each.

``<run>/stream/000-<title>/``: ``weights.safetensors`` (the whole model; also the anchors),
``importance.safetensors`` (where importance is found), ``history.parquet``, ``stage.json``
(accuracies, replay buffer, steps, seconds). A unit whose folder is committed is never run again;
the files are free of any layout, so another number of workers or another engine can go on.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.continual.stream import Unit
from orchestrator.storage import commit_folder, verify_folder
from orchestrator.training.history import History

WEIGHTS = "weights.safetensors"
IMPORTANCE = "importance.safetensors"
HISTORY = "history.parquet"
RECORD = "stage.json"
MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Stages:
    """The committed units of one run.

    Attributes:
        root: Their folder.
        units: All units of the stream in order.
    """

    root: Path
    units: Sequence[Unit]

    def folder(self, index: int) -> Path:
        """Folder of a unit, committed or not."""
        return self.root / f"{index:03d}-{self.units[index].title}"

    def finished(self) -> int:
        """Number of units that are committed, from the first on without a gap.

        Raises:
            IntegrityError: A committed unit is damaged.
        """
        count = 0
        while count < len(self.units) and (self.folder(count) / MANIFEST).is_file():
            verify_folder(self.folder(count))
            count += 1
        return count

    def commit(
        self,
        unit: Unit,
        *,
        weights: State,
        importance: State | None,
        history: History,
        record: dict[str, Any],
    ) -> None:
        """Make a finished unit visible at once; on one rank only."""
        self.root.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".tmp-", dir=self.root))
        try:
            save_file(_ready(weights), staged / WEIGHTS)
            if importance is not None:
                save_file(_ready(importance), staged / IMPORTANCE)
            history.to_parquet(staged / HISTORY)
            (staged / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            manifest = {"schema_version": SCHEMA_VERSION, "title": unit.title}
            commit_folder(staged, self.folder(unit.index), manifest)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def weights(self, index: int) -> State:
        """The whole model after a unit."""
        found: State = load_file(self.folder(index) / WEIGHTS)
        return found

    def importance(self, index: int) -> State | None:
        """Accumulated importance after a unit; None where none was measured."""
        path = self.folder(index) / IMPORTANCE
        return load_file(path) if path.is_file() else None

    def record(self, index: int) -> dict[str, Any]:
        """What ``commit`` was given as record."""
        found: dict[str, Any] = json.loads((self.folder(index) / RECORD).read_text("utf-8"))
        return found

    def history(self, index: int) -> History:
        """Learning curves of a unit."""
        return History.from_parquet(self.folder(index) / HISTORY)


def _ready(state: State) -> State:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
