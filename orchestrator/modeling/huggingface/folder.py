"""Folders that transformers reads and writes: config, one weights file or shards with an index."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from orchestrator.config import validate_config
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.catalogue import find_architecture
from orchestrator.modeling.huggingface.keys import Fetch, Table, require_same

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint of transformers, understood but not yet read.

    Attributes:
        folder: Where it is.
        architecture: Which class it is.
        values: Its config, completed with that class's defaults.
        config: The same model in our terms.
    """

    folder: Path
    architecture: Architecture
    values: dict[str, Any]
    config: ModelConfig

    @property
    def table(self) -> Table:
        """Which tensor of theirs is which of ours."""
        return self.architecture.table(self.config)


def open_source(folder: Path) -> Source:
    """Read the config of a checkpoint.

    Raises:
        InputError: There is no config, or its architecture or an option is not supported.
    """
    from transformers import AutoConfig

    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        name = (raw.get("architectures") or [""])[0]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give a checkpoint's folder.") from error
    architecture = find_architecture(name)
    values = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    ours = validate_config(ModelConfig, architecture.model_config(values), str(path))
    return Source(folder, architecture, values, ours)


def weight_files(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor.

    Raises:
        InputError: There are no safetensors here.
        IntegrityError: A shard is missing, or the files do not hold what the index says.
    """
    index = folder / INDEX
    if not index.is_file() and not (folder / WEIGHTS).is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
        raise InputError(
            f"{folder} has no {WEIGHTS} (other weights: {found}). Only safetensors are read: "
            "convert the checkpoint with `save_pretrained`."
        )
    if not index.is_file():
        return dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
    mapping = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    for file in sorted(set(mapping.values())):
        if Path(file).name != file:
            raise IntegrityError(f"{index}: {file!r} is not a plain file name.")
        expected = {name for name, where in mapping.items() if where == file}
        if set(_names(folder / file)) != expected:
            raise IntegrityError(
                f"{folder / file} does not hold what {index.name} says. Restore it."
            )
    return {name: folder / file for name, file in mapping.items()}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return list(file.keys())
    except Exception as error:  # safetensors raises its own type and OSError
        raise IntegrityError(f"{path} cannot be read: {error}. Restore it.") from error


@contextmanager
def reader(files: dict[str, Path]) -> Iterator[Fetch]:
    """Return a function that reads one tensor; files stay mapped, not loaded."""
    with ExitStack() as stack:
        paths = sorted(set(files.values()))
        opened = {path: stack.enter_context(safe_open(str(path), framework="pt")) for path in paths}
        yield lambda name: opened[files[name]].get_tensor(name)


def stored_names(source: Source) -> dict[str, Path]:
    """Return the file of each tensor that is read, second names of tied ones left out.

    Raises:
        IntegrityError: Tensors are missing or unexpected; all are listed.
    """
    files = weight_files(source.folder)
    expected = {name for row in source.table for name in row.theirs}
    repeated = source.architecture.repeated
    extra = {
        name
        for name in files
        if name not in expected and any(fnmatch(name, pattern) for pattern in repeated)
    }
    kept = {name: path for name, path in files.items() if name not in extra}
    require_same(expected, set(kept))
    return kept


def read_tensors(source: Source) -> dict[str, Tensor]:
    """Return the checkpoint's tensors under our names, in our layout.

    Raises:
        IntegrityError: Tensors are missing or unexpected; all are listed.
    """
    result: dict[str, Tensor] = {}
    with reader(stored_names(source)) as fetch:
        for row in source.table:
            result.update(row.to_ours(fetch))
    return result
