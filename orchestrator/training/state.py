"""Training state of an engine whose ranks hold whole parameters: safetensors and JSON.

``training.safetensors`` holds ``model.<name>`` and ``optimizer.<key>.<name>``; ``training.json``
describes it. No generator state: noise is drawn by position (``training/seeding.py``). What is
read may as well be the fragments that a sharded engine has written (``training/fragments.py``).
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.errors import IntegrityError
from orchestrator.training.fragments import (
    DESCRIPTION,
    FORMAT,
    MODEL,
    Fragments,
    Snapshot,
    described,
)
from orchestrator.training.optimizers import fp32_state, load_fp32_state, trainable
from orchestrator.training.precision import LossScale

TENSORS = "training.safetensors"


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
