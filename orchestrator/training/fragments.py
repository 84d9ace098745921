"""Stored training state by name and place: what any engine has written, any other reads.

An engine that cuts parameters writes ``training-<rank>.safetensors`` on every rank. A fragment's
key says what it is: ``model.<name>@<start>`` and ``optimizer.<key>.<name>@<start>`` hold elements
``start : start + n`` of the flattened parameter, so that no layout has to be known. Engines that
hold whole parameters write one file with whole tensors (``training/state.py``; no ``@``: start 0).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.errors import IntegrityError
from orchestrator.training.precision import LossScale

PATTERN = "training*.safetensors"
DESCRIPTION = "training.json"
FORMAT = 1
LOSS_SCALER = "loss_scaler"
"""Key of the loss scale in the description; only precision fp16 has one."""
MODEL = "model."
"""Beginning of the keys of parameters and buffers."""

Snapshot = Callable[[Path], None]
"""Writes a training state as it was, into a folder that the caller makes atomic."""


def snapshot_fragments(
    rank: int,
    world: int,
    fragments: Iterable[tuple[str, int, Tensor]],
    loss_scale: LossScale | None = None,
) -> Snapshot:
    """Copy one rank's fragments; return what writes them.

    Args:
        rank: The writing rank.
        world: Number of ranks that write.
        fragments: (key, start, values) of what this rank holds.
        loss_scale: Joins the description.
    """
    tensors = {f"{key}@{start}": _own(values) for key, start, values in fragments}

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"training-{rank:05d}.safetensors")
        if rank == 0:
            description = {"format": FORMAT, "layout": "fragments", "world": world}
            description |= described(loss_scale)
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    return write


def described(loss_scale: LossScale | None) -> dict[str, object]:
    """Return the entries of the description for a loss scale."""
    return {} if loss_scale is None else {LOSS_SCALER: loss_scale.model_dump()}


def _own(values: Tensor) -> Tensor:
    return values.detach().cpu().contiguous().clone()


@dataclass(frozen=True, slots=True)
class _Place:
    """Location of one fragment, and the elements it holds; without a start: all of them."""

    path: Path
    stored: str
    start: int | None
    shape: torch.Size

    @property
    def first(self) -> int:
        return self.start or 0

    @property
    def end(self) -> int:
        return self.first + self.shape.numel()

    def read(self) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.stored)
        return tensor


class Fragments:
    """Everything in a training state, readable by place.

    Args:
        folder: Written by any engine.

    Raises:
        IntegrityError: The folder holds no training state of a format this version reads.
    """

    def __init__(self, folder: Path) -> None:
        description = folder / DESCRIPTION
        files = sorted(folder.glob(PATTERN))
        if not files or not description.is_file():
            raise IntegrityError(f"{folder} holds no training state ({PATTERN}, {DESCRIPTION})")
        found = json.loads(description.read_text(encoding="utf-8"))
        if found.get("format") != FORMAT or found.get("world", 1) != len(files):
            raise IntegrityError(
                f"{folder} holds {len(files)} files of format {found.get('format')}, its "
                f"description says {found.get('world', 1)}; this version reads format {FORMAT}"
            )
        self.folder = folder
        scaler = found.get(LOSS_SCALER)
        self.loss_scale = None if scaler is None else LossScale.model_validate(scaler)
        self._places: dict[str, list[_Place]] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                for stored in file.keys():  # noqa: SIM118 - not a mapping
                    key, cut, start = stored.partition("@")
                    shape = torch.Size(file.get_slice(stored).get_shape())
                    place = _Place(path, stored, int(start) if cut else None, shape)
                    self._places.setdefault(key, []).append(place)

    def optimizer_keys(self, name: str) -> dict[str, str]:
        """Return the stored keys of one parameter's optimizer state, by their short names."""
        found = {}
        for key in self._places:
            kind, _, rest = key.partition(".")
            short, _, owner = rest.partition(".")
            if kind == "optimizer" and owner == name:
                found[short] = key
        return found

    def names(self) -> set[str]:
        """Return the names of the stored parameters and buffers."""
        return {key.removeprefix(MODEL) for key in self._places if key.startswith(MODEL)}

    def shape(self, key: str) -> torch.Size:
        """Return the shape of what `whole` returns."""
        places = self._places[key]
        if places[0].start is None or not places[0].shape:
            return places[0].shape
        return torch.Size([max(place.end for place in places)])

    def whole(self, key: str) -> Tensor:
        """Return a tensor in its shape if one rank has stored it, else flattened.

        Raises:
            IntegrityError: Some elements are in no file.
        """
        place, shape = self._places[key][0], self.shape(key)
        return place.read() if shape == place.shape else self.read(key, 0, shape.numel())

    def is_scalar(self, key: str) -> bool:
        """Return whether a value belongs to a parameter as a whole, like the number of steps."""
        return not self.shape(key)

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """Assemble elements ``start : start + numel`` of one flattened tensor.

        Raises:
            IntegrityError: Some of them are in no file.
        """
        pieces: list[tuple[int, Tensor]] = []
        for place in self._places.get(key, []):
            low, high = max(start, place.first), min(start + numel, place.end)
            if low < high:
                piece = place.read().reshape(-1)[low - place.first : high - place.first]
                pieces.append((low - start, piece))
        if sum(piece.numel() for _, piece in pieces) != numel:
            raise IntegrityError(
                f"{self.folder}: elements {start} to {start + numel} of {key} are not complete. "
                "The checkpoint belongs to another model"
            )
        out = torch.empty(numel, dtype=pieces[0][1].dtype)
        for at, piece in pieces:
            out[at : at + piece.numel()] = piece
        return out
