"""Training state of an engine that cuts parameters: fragments by name and place, no layout.

Every rank writes ``training-<rank>.safetensors``. A fragment's key says what it is:
``model.<name>@<start>`` and ``optimizer.<key>.<name>@<start>`` hold elements ``start : start + n``
of the flattened parameter, so any ZeRO stage at any number of workers can read what any other
wrote, and also the whole-parameter files of ``training/state.py`` (no ``@``: start 0).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.errors import IntegrityError
from orchestrator.training.state import DESCRIPTION, FORMAT, Snapshot

PATTERN = "training*.safetensors"


def snapshot_fragments(
    rank: int,
    world: int,
    fragments: Iterable[tuple[str, int, Tensor]],
    extra: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Copy one rank's fragments; return what writes them.

    Args:
        rank: The writing rank.
        world: Number of ranks that write.
        fragments: (key, start, values) of what this rank holds.
        extra: Joins the description, as JSON.
    """
    tensors = {f"{key}@{start}": _own(values) for key, start, values in fragments}

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"training-{rank:05d}.safetensors")
        if rank == 0:
            description = {"format": FORMAT, "layout": "fragments", "world": world}
            description |= extra or {}
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    return write


def _own(values: Tensor) -> Tensor:
    return values.detach().cpu().contiguous().clone()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one fragment is stored, and which elements it holds."""

    path: Path
    stored: str
    start: int
    numel: int
    scalar: bool

    def read(self) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.stored)
        return tensor.reshape(-1)


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
        self.description: dict[str, Any] = found
        self._places: dict[str, list[_Place]] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                for stored in file.keys():  # noqa: SIM118 - not a mapping
                    key, _, start = stored.partition("@")
                    shape = file.get_slice(stored).get_shape()
                    place = _Place(path, stored, int(start or 0), math.prod(shape), not shape)
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

    def is_scalar(self, key: str) -> bool:
        """Whether a value belongs to a parameter as a whole, like the number of steps."""
        return self._places[key][0].scalar

    def scalar(self, key: str) -> Tensor:
        """Return a value that belongs to a whole parameter, 0-dim."""
        place = self._places[key][0]
        return place.read().reshape(())

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """Assemble elements ``start : start + numel`` of one flattened tensor.

        Raises:
            IntegrityError: Some of them are in no file.
        """
        pieces: list[tuple[int, Tensor]] = []
        for place in self._places.get(key, []):
            low, high = max(start, place.start), min(start + numel, place.start + place.numel)
            if low < high:
                piece = place.read()[low - place.start : high - place.start]
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
