"""Stored training state by name and place: what any engine has written, any other reads.

Engines that hold whole parameters write one file, ``training.safetensors``, with ``model.<name>``
and ``optimizer.<key>.<name>``. An engine that cuts parameters writes fragments on every rank, in
``training-<rank>.safetensors``: ``model.<name>@<start>``, ``optimizer.<key>.<name>@<start>`` hold
elements ``start : start + n`` of the flattened parameter, so that no layout has to be known.
``training.json`` describes either. No generator state is stored: noise is drawn by position
(``training/loop.py``).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.errors import IntegrityError
from orchestrator.training.engines.optimizers import fp32_state, load_fp32_state, trainable
from orchestrator.training.engines.precision import LossScale

PATTERN = "training*.safetensors"
TENSORS = "training.safetensors"
"""File of an engine that holds whole parameters."""
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


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state, by name."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {k: v for k, v in module.state_dict(keep_vars=True).items() if k not in parameters}


def snapshot_training_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, loss_scale: LossScale | None = None
) -> Snapshot:
    """Copy weights, buffers and optimizer moments to the CPU; return what writes them.

    Args:
        module: The model.
        optimizer: Its optimizer.
        loss_scale: Joins the description.
    """
    tensors = {f"model.{name}": p.detach() for name, p in module.named_parameters()}
    tensors |= {f"model.{name}": b.detach() for name, b in persistent_buffers(module).items()}
    for name, parameter in trainable(module):
        for key, value in fp32_state(optimizer, parameter).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    copies = {k: v.to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    description = {"format": FORMAT, "optimizer": type(optimizer).__name__, **described(loss_scale)}

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(copies, folder / TENSORS)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    return write


@torch.no_grad()
def load_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> LossScale | None:
    """Read back, in place, what a snapshot of any engine wrote; return its loss scale, if any.

    Raises:
        IntegrityError: The state is missing, incomplete, of another format, or of another model.
    """
    found = Fragments(folder)
    owned = dict(module.named_parameters()) | persistent_buffers(module)
    _compare(owned, found)
    for name, value in owned.items():
        value.copy_(found.whole(MODEL + name).view(value.shape))
    for name, parameter in trainable(module):
        state = {key: found.whole(at) for key, at in found.optimizer_keys(name).items()}
        placed = {key: _like(value, parameter) for key, value in state.items()}
        load_fp32_state(optimizer, parameter, placed)
    return found.loss_scale


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Bring state to its parameter, and into its shape if it has a value for each element."""
    value = value.to(parameter.device)
    return value.view(parameter.shape) if value.shape == (parameter.numel(),) else value


def _compare(expected: dict[str, Tensor], found: Fragments) -> None:
    stored = found.names()
    wrong = sorted(stored ^ set(expected))
    for name in sorted(stored & set(expected)):
        shape, own = found.shape(MODEL + name), expected[name].shape
        if shape not in (own, (own.numel(),)):
            wrong.append(name)
    if wrong:
        raise IntegrityError(
            f"{found.folder} belongs to another model; these differ: {', '.join(wrong)}"
        )
