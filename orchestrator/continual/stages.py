"""Finished units of a stream, one committed folder each.

``<run>/stream/000-<title>/``: ``weights.safetensors`` (the whole model; also the anchors),
``<name>.safetensors`` (tensors that a part left, such as ``importance``), ``history.parquet``,
``stage.json`` (:class:`UnitRecord`). A unit whose folder is committed is never run again; the files
do not depend on any layout, so another number of workers or another engine can continue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from orchestrator.continual.parts.base import State
from orchestrator.continual.results import UnitRecord
from orchestrator.continual.stream import Unit
from orchestrator.errors import StageError
from orchestrator.storage import staged, verify_folder
from orchestrator.training.history import History

SUFFIX = ".safetensors"
WEIGHTS = f"weights{SUFFIX}"
HISTORY = "history.parquet"
RECORD = "stage.json"
MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


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
        """Return the folder of a unit, committed or not."""
        return self.root / f"{index:03d}-{self.units[index].title}"

    def finished(self) -> int:
        """Return the number of units that are committed, from the first on without a gap.

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
        left: Mapping[str, State],
        history: History,
        record: UnitRecord,
    ) -> None:
        """Make a finished unit visible at once; on one rank only.

        Args:
            unit: The unit.
            weights: The whole model.
            left: Tensors that parts left, by file name without suffix.
            history: Learning curves of the unit.
            record: Its figures.

        Raises:
            StageError: A part uses the name of another file, or the disk is full or read-only.
        """
        manifest = {"schema_version": SCHEMA_VERSION, "title": unit.title}
        with staged(self.folder(unit.index), manifest) as folder:
            save_file(_ready(weights), folder / WEIGHTS)
            for name, state in left.items():
                if (path := folder / f"{name}{SUFFIX}").exists():
                    raise StageError(f"a part cannot store its tensors as {path.name}: it is taken")
                save_file(_ready(state), path)
            history.to_parquet(folder / HISTORY)
            (folder / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")

    def weights(self, index: int) -> State:
        """Read the whole model after a unit."""
        found: State = load_file(self.folder(index) / WEIGHTS)
        return found

    def left(self, index: int, name: str) -> State:
        """Read the tensors that a part left after a unit; empty where it left none."""
        path = self.folder(index) / f"{name}{SUFFIX}"
        return load_file(path) if path.is_file() else {}

    def left_names(self, index: int) -> list[str]:
        """Return the names under which parts left tensors after a unit."""
        files = self.folder(index).glob(f"*{SUFFIX}")
        return sorted(path.stem for path in files if path.name != WEIGHTS)

    def record(self, index: int) -> UnitRecord:
        """Read the figures of a unit."""
        text = (self.folder(index) / RECORD).read_text("utf-8")
        return UnitRecord.model_validate_json(text)

    def history(self, index: int) -> History:
        """Read the learning curves of a unit."""
        return History.from_parquet(self.folder(index) / HISTORY)


def _ready(state: State) -> State:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
