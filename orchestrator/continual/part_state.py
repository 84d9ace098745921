"""Per-step state of the parts inside the training checkpoint (``parts.safetensors``).

States are full tensors, so another number of workers or another engine can continue. Parts without
state write nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file

from orchestrator.continual.parts.base import Part, State
from orchestrator.errors import IntegrityError
from orchestrator.modeling.tensor_files import write_tensor_file
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.state import Snapshot
from orchestrator.training.engines.state_index import RankPart

PARTS_FILE = "parts.safetensors"


class _WithParts:
    """An engine whose snapshot also holds the state of the parts.

    A checkpoint is committed from ``Engine.snapshot`` alone; adding to it keeps both in one commit.
    """

    def __init__(self, engine: Engine, parts: Sequence[Part[Any]]) -> None:
        self._engine, self._parts = engine, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def snapshot(self) -> Snapshot:
        """Copy the training state and the parts' state; collective."""
        write = self._engine.snapshot()
        tensors: State = {
            f"{part.name}.{key}": value.detach().cpu().contiguous().clone()
            for part in self._parts
            for key, value in part.state(self._engine).items()
        }

        def write_both(folder: Path) -> RankPart:
            part = write(folder)
            if not tensors or self._engine.rank != 0:
                return part
            entry = write_tensor_file(folder / PARTS_FILE, tensors)
            return part.model_copy(update={"files": {**part.files, PARTS_FILE: entry}})

        return write_both


def with_parts(engine: Engine, parts: Sequence[Part[Any]]) -> Engine:
    """Return the engine as ``commit_checkpoint`` must see it, so that parts are saved with it."""
    return cast(Engine, _WithParts(engine, parts))


def load_parts(folder: Path, engine: Engine, parts: Sequence[Part[Any]]) -> None:
    """Give every part the state that a checkpoint holds for it; collective.

    Raises:
        IntegrityError: The checkpoint lacks tensors that a part saves, or holds others.
    """
    path = folder / PARTS_FILE
    stored: State = load_file(path) if path.is_file() else {}
    expected = {f"{part.name}.{key}" for part in parts for key in part.state(engine)}
    if stored.keys() != expected:
        names = ", ".join(sorted(stored.keys() ^ expected))
        raise IntegrityError(
            f"{path} does not fit the parts of the method: {names}. The checkpoint was written by "
            "another version of a part; start a run with another name"
        )
    for part in parts:
        prefix = f"{part.name}."
        own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        part.load_state(engine, own)
