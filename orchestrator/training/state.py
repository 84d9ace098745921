"""Full training state of an engine whose ranks hold whole parameters: safetensors and JSON.

``training.safetensors`` holds ``model.<name>`` and ``optimizer.<key>.<name>``; ``training.json``
describes it. No generator state: noise is drawn by position (``training/seeding.py``).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orchestrator.errors import IntegrityError
from orchestrator.training.optimizers import plain_state, take_plain_state, trainable

TENSORS = "training.safetensors"
DESCRIPTION = "training.json"
FORMAT = 1

Snapshot = Callable[[Path], None]
"""Writes a training state as it was, into a folder that the caller makes atomic."""


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state, by name."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {k: v for k, v in module.state_dict(keep_vars=True).items() if k not in parameters}


def snapshot_training_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any] | None = None
) -> Snapshot:
    """Copy weights, buffers and optimizer moments to the CPU; return what writes them.

    Args:
        module: The model.
        optimizer: Its optimizer.
        extra: Joins the description, as JSON.
    """
    tensors = {f"model.{name}": p.detach() for name, p in module.named_parameters()}
    tensors |= {f"model.{name}": b.detach() for name, b in persistent_buffers(module).items()}
    for name, parameter in trainable(module):
        for key, value in plain_state(optimizer, parameter).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    copies = {k: v.to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    description = {"format": FORMAT, "optimizer": type(optimizer).__name__, **(extra or {})}

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(copies, folder / TENSORS)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    return write


@torch.no_grad()
def load_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Read back what a snapshot wrote, in place; return its description.

    Raises:
        IntegrityError: The state is missing, of another format, or of another model.
    """
    path, description = folder / TENSORS, folder / DESCRIPTION
    if not (path.is_file() and description.is_file()):
        raise IntegrityError(f"{folder} holds no training state ({TENSORS}, {DESCRIPTION})")
    found: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise IntegrityError(
            f"{description} has format {found.get('format')}, this version reads {FORMAT}"
        )
    tensors = load_file(path)
    owned = dict(module.named_parameters()) | persistent_buffers(module)
    _compare({f"model.{k}": v for k, v in owned.items()}, tensors, path)
    for name, value in owned.items():
        value.copy_(tensors[f"model.{name}"])
    states = _optimizer_states(tensors)
    for name, parameter in trainable(module):
        stored = {key: value.to(parameter.device) for key, value in states.get(name, {}).items()}
        take_plain_state(optimizer, parameter, stored)
    return found


def _compare(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    stored = {key for key in found if key.startswith("model.")}
    wrong = sorted(stored ^ set(expected))
    wrong += [k for k in sorted(stored & set(expected)) if found[k].shape != expected[k].shape]
    if wrong:
        raise IntegrityError(f"{path} belongs to another model; these differ: {', '.join(wrong)}")


def _optimizer_states(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    states: dict[str, dict[str, Any]] = {}
    for full_key, value in tensors.items():
        if full_key.startswith("optimizer."):
            key, name = full_key.removeprefix("optimizer.").split(".", 1)
            states.setdefault(name, {})[key] = value
    return states
