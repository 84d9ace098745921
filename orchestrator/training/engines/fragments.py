"""Reading of a stored training state by place, whichever engine wrote it."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from orchestrator.errors import IntegrityError
from orchestrator.modeling.tensor_files import DTYPES
from orchestrator.storage.remote.partial import file_names, present
from orchestrator.training.engines.precision import LossScale
from orchestrator.training.engines.state_index import (
    INDEX,
    Piece,
    RankPart,
    StateIndex,
    StoredTensor,
    merged,
    parsed_index,
)

PATTERN = "training*.safetensors"
MODEL = "model."
"""Beginning of the keys of parameters and buffers."""
UNINDEXED = 1
"""Format of a state without an index: every file has to be opened."""


def stored_name(key: str, start: int | None) -> str:
    """Return the name of a piece in its file.

    Args:
        key: Name of the tensor.
        start: First element; None: the whole tensor.
    """
    return key if start is None else f"{key}@{start}"


class Fragments:
    """Everything in a training state, readable by place.

    A file is opened when an element of it is read, and stays open as long as this object lives.

    Args:
        folder: Written by any engine.

    Raises:
        IntegrityError: The folder holds no training state of a format this version reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[int, tuple[Any, set[str]]] = {}
        index = _read_index(folder)
        self.loss_scale = index.loss_scaler
        self._files, self._tensors = index.files, index.tensors
        self._optimizer: dict[str, dict[str, str]] = {}
        for key in self._tensors:
            kind, _, rest = key.partition(".")
            short, _, owner = rest.partition(".")
            if kind == "optimizer":
                self._optimizer.setdefault(owner, {})[short] = key

    def optimizer_keys(self, name: str) -> dict[str, str]:
        """Return the stored keys of one parameter's optimizer state, by their short names."""
        return dict(self._optimizer.get(name, {}))

    def names(self) -> set[str]:
        """Return the names of the stored parameters and buffers."""
        return {key.removeprefix(MODEL) for key in self._tensors if key.startswith(MODEL)}

    def shape(self, key: str) -> torch.Size:
        """Return the shape of what `whole` returns."""
        tensor = self._tensors[key]
        return torch.Size((tensor.numel,) if tensor.shape is None else tensor.shape)

    def dtype(self, key: str) -> torch.dtype:
        """Return the element type of a tensor."""
        return DTYPES[self._tensors[key].dtype]

    def whole(self, key: str) -> Tensor:
        """Return a tensor in its shape if one rank has stored it, else flattened.

        Raises:
            IntegrityError: Some elements are in no file.
        """
        tensor = self._tensors[key]
        if tensor.shape is None:
            return self.read(key, 0, tensor.numel)
        return self._stored(self._nearest(tensor), key, None)

    def is_scalar(self, key: str) -> bool:
        """Return whether a value belongs to a parameter as a whole, like the number of steps."""
        return not self.shape(key)

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """Assemble elements ``start : start + numel`` of one flattened tensor.

        Raises:
            IntegrityError: Some of them are in no file.
        """
        tensor, end = self._tensors.get(key), start + numel
        pieces: list[tuple[int, Tensor]] = []
        if tensor is not None and tensor.shape is not None:
            pieces.append((0, self.whole(key).reshape(-1)[start:end]))
        elif tensor is not None:
            for run in tensor.runs:
                for file, first in run.overlapping(start, end):
                    stored = self._stored(file, key, first)
                    low, high = max(start, first), min(end, first + run.numel)
                    pieces.append((low - start, stored[low - first : high - first]))
        if sum(piece.numel() for _, piece in pieces) != numel:
            raise IntegrityError(
                f"{self.folder}: elements {start} to {end} of {key} are not complete. "
                "The checkpoint belongs to another model"
            )
        out = torch.empty(numel, dtype=self.dtype(key))
        for at, piece in pieces:
            out[at : at + piece.numel()] = piece
        return out

    def _nearest(self, tensor: StoredTensor) -> int:
        """Return a file that holds a whole tensor; one that is open already, if there is one."""
        for run in tensor.runs:
            for file in self._opened:
                index, rest = divmod(file - run.file, run.file_step or 1)
                if not rest and 0 <= index < run.repeats:
                    return file
        return tensor.runs[0].file

    def _stored(self, file: int, key: str, start: int | None) -> Tensor:
        """Return one stored tensor; its memory is the file's, and is read when it is used."""
        if file not in self._opened:
            path = self.folder / self._files[file]
            try:
                opened: Any = safe_open(present(path), framework="pt")
            except Exception as error:  # safetensors raises its own type and OSError
                raise IntegrityError(f"{path} cannot be read: {error}.") from error
            self._opened[file] = (opened, set(opened.keys()))
        held, names = self._opened[file]
        name = stored_name(key, start)
        if name not in names:  # without an index, values without axes have a place in their name
            name = stored_name(key, 0)
        if name not in names:
            raise IntegrityError(
                f"{self.folder / self._files[file]}: damaged: it lacks {key}, which {INDEX} lists."
            )
        tensor: Tensor = held.get_tensor(name)
        return tensor


def _read_index(folder: Path) -> StateIndex:
    """Return the index of a state; of a state of the format without one, make it."""
    path = folder / INDEX
    files = [folder / name for name in file_names(folder) if fnmatch(name, PATTERN)]
    if not files or not path.is_file():
        raise IntegrityError(f"{folder} holds no training state ({PATTERN}, {INDEX})")
    text = path.read_bytes()
    try:
        stored = json.loads(text)
        version = stored.get("format")
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: damaged: not valid JSON ({error}).") from error
    if version != UNINDEXED:
        index = parsed_index(text, path)
        count = len(index.files)
    else:
        count = int(stored.get("world", 1))
    if count != len(files):
        raise IntegrityError(
            f"{folder} holds {len(files)} files of format {version}, {INDEX} says {count}. "
            "Restore it, or go on from an earlier checkpoint"
        )
    if version != UNINDEXED:
        return index
    parts = [_unindexed(path, rank) for rank, path in enumerate(files)]
    return merged(parts).model_copy(update={"loss_scaler": _scale_of(stored)})


def _scale_of(stored: Mapping[str, Any]) -> LossScale | None:
    scaler = stored.get("loss_scaler")
    return None if scaler is None else LossScale.model_validate(scaler)


def _unindexed(path: Path, rank: int) -> RankPart:
    """Describe one file of a state without an index; opens it."""
    pieces = []
    with safe_open(present(path), framework="pt") as file:
        for stored in file.keys():  # noqa: SIM118 - not a mapping
            key, cut, start = stored.partition("@")
            part = file.get_slice(stored)
            shape = tuple(part.get_shape())
            place = int(start) if cut and shape else None
            pieces.append(Piece(key, place, shape, part.get_dtype()))
    return RankPart(rank=rank, tensors=path.name, files={}, pieces=tuple(pieces))
