"""Stored training state by name and place: what any engine has written, any other reads.

``model.<name>`` and ``optimizer.<key>.<name>`` are tensors of safetensors files. One process writes
whole tensors into ``training.safetensors``. On several ranks each writes its own elements into
``training-<rank>.safetensors``: ``<tensor>@<start>`` holds elements ``start : start + n`` of the
flattened tensor. Engines that cut parameters write their shards; where every rank holds everything,
each writes an equal range. ``training.json`` says which file holds what (``state_index``). No
generator state is stored: noise is drawn by position (``training/loop.py``).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from orchestrator.errors import IntegrityError
from orchestrator.modeling.tensor_files import DTYPE_NAMES, write_tensor_file
from orchestrator.training.engines.fragments import MODEL, Fragments, stored_name
from orchestrator.training.engines.optimizers import fp32_state, load_fp32_state, trainable
from orchestrator.training.engines.precision import LossScale
from orchestrator.training.engines.state_index import (
    Cuts,
    Piece,
    RankPart,
    cut_evenly,
    write_index,
)
from orchestrator.training.watchdog import beat

TENSORS = "training.safetensors"
"""File of a single process, with whole tensors."""

Snapshot = Callable[[Path], RankPart]
"""Writes a training state as it was, into a folder that the caller makes atomic."""
Fragment = tuple[str, int | None, Tensor]
"""Key, first element (None: the whole tensor), values."""


def snapshot_fragments(
    rank: int,
    fragments: Iterable[Fragment],
    loss_scale: LossScale | None = None,
    name: str | None = None,
) -> Snapshot:
    """Copy one rank's fragments; return what writes them.

    Args:
        rank: The writing rank.
        fragments: What this rank holds; a value without axes is whole wherever it is.
        loss_scale: Joins the index; rank 0's counts.
        name: Name of the file; None: one by the rank.
    """
    tensors: dict[str, Tensor] = {}
    pieces: list[Piece] = []
    for key, place, values in fragments:
        start = place if values.dim() else None
        own = values.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        tensors[stored_name(key, start)] = own
        pieces.append(Piece(key, start, tuple(own.shape), DTYPE_NAMES[own.dtype]))
    file = name or f"training-{rank:05d}.safetensors"

    def write(folder: Path) -> RankPart:
        folder.mkdir(parents=True, exist_ok=True)
        entry = write_tensor_file(folder / file, tensors)
        return RankPart(
            rank=rank,
            tensors=file,
            files={file: entry},
            pieces=tuple(pieces),
            loss_scaler=loss_scale,
        )

    return write


def save_state(snapshot: Snapshot, folder: Path, rank: int, world: int) -> None:
    """Write the state of all ranks with its index into a folder that they share; collective."""
    part = snapshot(folder)
    if world == 1:
        write_index(folder, [part])
        return
    parts: list[str] = [""] * world
    distributed.all_gather_object(parts, part.model_dump_json())
    if rank == 0:
        write_index(folder, [RankPart.model_validate_json(each) for each in parts])
    distributed.barrier()


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state, by name."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {k: v for k, v in module.state_dict(keep_vars=True).items() if k not in parameters}


def snapshot_training_state(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_scale: LossScale | None = None,
    rank: int = 0,
    world: int = 1,
) -> Snapshot:
    """Copy weights, buffers and optimizer moments to the CPU; return what writes them.

    Args:
        module: The model.
        optimizer: Its optimizer.
        loss_scale: Joins the index.
        rank: The writing rank.
        world: Number of ranks. All hold the same state and each writes a part of it; buffers may
            differ, rank 0's count.
    """
    tensors = {MODEL + name: p.detach() for name, p in module.named_parameters()}
    for name, parameter in trainable(module):
        for key, value in fp32_state(optimizer, parameter).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    sizes = {key: value.numel() for key, value in tensors.items()}
    own = [
        (key, None, tensors[key])
        if numel == sizes[key]
        else (key, start, tensors[key].reshape(-1)[start : start + numel])
        for key, cuts in cut_evenly(sizes, world).items()
        for owner, start, numel in cuts
        if owner == rank
    ]
    if rank == 0:
        own += [(MODEL + n, None, b.detach()) for n, b in persistent_buffers(module).items()]
    return snapshot_fragments(rank, own, loss_scale, TENSORS if world == 1 else None)


def read_shared(
    found: Fragments,
    cuts: Cuts,
    rank: int,
    world: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield whole tensors, flattened, on every rank; each element is read by one rank; collective.

    Args:
        found: The state.
        cuts: Pieces that each rank reads.
        rank: This rank.
        world: Number of ranks.
        device: Where tensors are exchanged.
    """
    for key, pieces in cuts.items():
        flat = torch.empty(found.shape(key).numel(), dtype=found.dtype(key), device=device)
        for reader, start, numel in pieces:
            part = flat[start : start + numel]
            if reader == rank:
                part.copy_(found.read(key, start, numel))
            if world > 1 and numel:
                distributed.broadcast(part.view(torch.uint8), src=reader)
        beat()
        yield flat


@torch.no_grad()
def load_training_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    rank: int = 0,
    world: int = 1,
) -> LossScale | None:
    """Read back, in place, what a snapshot of any engine wrote; return its loss scale, if any.

    With several ranks each reads a part and hands it to the others; collective.

    Raises:
        IntegrityError: The state is missing, incomplete, of another format, or of another model.
    """
    found = Fragments(folder)
    buffers = persistent_buffers(module)
    _compare(dict(module.named_parameters()) | buffers, found)
    states = {name: found.optimizer_keys(name) for name, _ in trainable(module)}
    keys = [MODEL + name for name, _ in module.named_parameters()]
    keys += [key for state in states.values() for key in state.values()]
    cuts = cut_evenly({key: found.shape(key).numel() for key in keys}, world)
    cuts |= {MODEL + n: [(0, 0, found.shape(MODEL + n).numel())] for n in buffers}
    device = next(module.parameters()).device
    values = read_shared(found, cuts, rank, world, device)  # in the order of `cuts`
    for _, parameter in module.named_parameters():
        parameter.copy_(next(values).view(parameter.shape))
    for name, parameter in trainable(module):
        read = {short: next(values).view(found.shape(key)) for short, key in states[name].items()}
        state = {short: _like(value, parameter) for short, value in read.items()}
        load_fp32_state(optimizer, parameter, state)
    for buffer in buffers.values():
        buffer.copy_(next(values).view(buffer.shape))
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
