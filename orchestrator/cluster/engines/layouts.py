"""Layouts of an engine that shards parameters: places of masters and gradients, and their state.

State is saved and loaded as fragments (``training/engines/state.py``), whatever the layout.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from orchestrator.cluster.engines.cuts import as_range, covering, picked
from orchestrator.errors import IntegrityError, StageError
from orchestrator.training.engines.engine import Engine, Shard
from orchestrator.training.engines.fragments import MODEL, Fragments
from orchestrator.training.engines.optimizers import fp32_state, load_fp32_state
from orchestrator.training.engines.precision import LossScale
from orchestrator.training.engines.state import (
    Fragment,
    Snapshot,
    persistent_buffers,
    read_shared,
    snapshot_fragments,
)
from orchestrator.training.engines.state_index import cut_each
from orchestrator.training.watchdog import beat

Named = list[tuple[str, nn.Parameter]]


class Layout(Protocol):
    """One way of cutting parameters."""

    def clear(self) -> None:
        """Forget all gradients."""
        ...

    def fill(self) -> None:
        """Make the gradients of a window that has ended complete."""
        ...

    def shards(self) -> Iterator[Shard]:
        """Yield this rank's shards, as views, without padding."""
        ...

    def refresh(self) -> None:
        """Publish masters to the weights of all ranks; collective."""
        ...

    def flats(self) -> Sequence[Tensor]:
        """Return the flat tensors that the base optimizer steps, keys of its state."""
        ...

    def whole(self, parameter: nn.Parameter, *, write: bool) -> AbstractContextManager[Tensor]:
        """Hold a whole parameter on every rank for a while; rank 0's writes win; collective."""
        ...


def offset_in(part: Tensor, whole: Tensor) -> int | None:
    """Return where ``part`` begins in the 1-D tensor ``whole``, in elements; None: not inside."""
    if part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
        return None
    offset = int(part.storage_offset() - whole.storage_offset())
    return offset if 0 <= offset < whole.numel() else None


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Shape of the whole parameter, also while only a chunk of it is here."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def snapshot_state(
    engine: Engine,
    optimizer: Optimizer,
    layout: Layout,
    loss_scale: LossScale | None,
    frozen: Sequence[Shard] | None = None,
    *,
    stores: bool = True,
) -> Snapshot:
    """Copy this rank's fragments and its range of frozen parameters; collective.

    Rank 0 adds buffers, which no rank has a part of.

    Args:
        engine: Whose masters to copy.
        optimizer: What steps the flat tensors.
        layout: Where things lie.
        loss_scale: Joins the description.
        frozen: This rank's parts of frozen parameters, if weights are rounded copies of them.
        stores: Whether this process stores its shards: others may have the same ones.
    """
    fragments = list(_fragments(engine, optimizer, layout)) if stores else []
    process = distributed.get_rank()
    if frozen is None:
        fragments += _ranges_of_frozen(engine, layout)
    else:
        fragments += [(MODEL + part.name, part.start, part.master) for part in frozen]
    if process == 0:
        buffers = persistent_buffers(engine.module)
        fragments += [(MODEL + name, None, value) for name, value in buffers.items()]
    return snapshot_fragments(process, fragments, loss_scale)


def _ranges_of_frozen(engine: Engine, layout: Layout) -> Iterator[Fragment]:
    """Yield copies of this process's range of all frozen parameters; collective."""
    process, processes = distributed.get_rank(), distributed.get_world_size()
    for name, parameter in _frozen_parameters(engine):
        with layout.whole(parameter, write=False) as whole:
            for owner, start, numel in cut_each({name: whole.numel()}, processes)[name]:
                if owner == process:
                    own = whole.detach().reshape(-1)[start : start + numel]
                    yield MODEL + name, start, own.clone()


def _frozen_parameters(engine: Engine) -> Named:
    return [(name, p) for name, p in engine.module.named_parameters() if not p.requires_grad]


@torch.no_grad()
def load_state(
    folder: Path,
    engine: Engine,
    optimizer: Optimizer,
    layout: Layout,
    frozen: Sequence[Shard] = (),
    *,
    device: torch.device,
) -> LossScale | None:
    """Read masters and optimizer state of this rank's shards; the caller publishes; collective.

    Args:
        folder: Written by any engine.
        engine: What to read into.
        optimizer: What steps the flat tensors.
        layout: Where things lie.
        frozen: This rank's parts of frozen parameters, if weights are rounded copies of them.
        device: Device of the collectives.

    Returns:
        The loss scale, if the state has one.

    Raises:
        IntegrityError: The state is missing, incomplete or of another model.
    """
    found = Fragments(folder)
    for shard in (*engine.shards(), *frozen):
        beat()
        shard.master.copy_(picked(shard, found.read(f"model.{shard.name}", *covering(shard))))
    for flat, state in _states(engine, optimizer, layout, found):
        load_fp32_state(optimizer, flat, state)
    buffers = persistent_buffers(engine.module)
    keys = [MODEL + name for name, _ in _frozen_parameters(engine)]
    _require_stored(found, [*keys, *(MODEL + name for name in buffers)])
    process, processes = distributed.get_rank(), distributed.get_world_size()
    cuts = cut_each({key: found.shape(key).numel() for key in keys}, processes)
    cuts |= {MODEL + name: [(0, 0, value.numel())] for name, value in buffers.items()}
    values = read_shared(found, cuts, process, processes, device)
    for _, parameter in _frozen_parameters(engine):
        with layout.whole(parameter, write=True) as whole:
            whole.copy_(next(values).view(whole.shape))
    for value in buffers.values():
        value.copy_(next(values).view(value.shape))
    return found.loss_scale


def _require_stored(found: Fragments, keys: Iterable[str]) -> None:
    """Raise, the same on every rank, where a tensor is not in the state.

    Raises:
        IntegrityError: Names the tensors.
    """
    stored = found.names()
    missing = [key for key in keys if key.removeprefix(MODEL) not in stored]
    if missing:
        raise IntegrityError(f"{found.folder} belongs to another model; it lacks {missing}")


def _fragments(engine: Engine, optimizer: Optimizer, layout: Layout) -> Iterator[Fragment]:
    states = {id(flat): fp32_state(optimizer, flat) for flat in layout.flats()}
    for shard in engine.shards():
        yield f"model.{shard.name}", *as_range(shard, shard.master)
        flat, offset = home_of(shard, layout)
        for key, value in states[id(flat)].items():
            name = f"optimizer.{key}.{shard.name}"
            if value.dim() == 0:
                yield name, 0, value
            else:
                yield name, *as_range(shard, value[offset : offset + shard.master.numel()])


def _states(
    engine: Engine, optimizer: Optimizer, layout: Layout, found: Fragments
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return the state of every flat tensor, put together from what its shards had."""
    states = {id(flat): (flat, fp32_state(optimizer, flat)) for flat in layout.flats()}
    for shard in engine.shards():
        home, offset = home_of(shard, layout)
        flat, state = states[id(home)]
        beat()
        for short, key in found.optimizer_keys(shard.name).items():
            if found.is_scalar(key):
                state[short] = found.whole(key).to(flat.device)
                continue
            whole = state.setdefault(short, torch.zeros_like(flat.detach()))
            values = picked(shard, found.read(key, *covering(shard)))
            whole[offset : offset + len(values)] = values
    return [(flat, state) for flat, state in states.values() if state]


def home_of(shard: Shard, layout: Layout) -> tuple[Tensor, int]:
    """Return the flat tensor that holds a shard, and the shard's place in it."""
    for flat in layout.flats():
        offset = offset_in(shard.master, flat)
        if offset is not None:
            return flat, offset
    raise StageError(f"{shard.name} lies in no tensor that the optimizer steps")
