"""Weights of TencentPretrain: safetensors, or the pickles that its own code writes.

This is the only place where a pickle of somebody else is opened, because there is no other form of
these checkpoints. ``weights_only`` lets it rebuild tensors and nothing else, and the package that
is made of them holds safetensors.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError

ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
"""A number of steps may follow, as in ``model.bin-100000``."""
_STEP = re.compile(r"-\d+$")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint; files stay mapped where their format allows it.

    Raises:
        InputError: The file does not exist, or has another extension.
        IntegrityError: It is damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the weights of the configuration.")
    suffix = _STEP.sub("", path.suffix)
    if suffix not in ENDINGS:
        raise InputError(f"{path}: weights end in {', '.join(ENDINGS)}.")
    try:
        content: Any = (
            load_file(str(path))
            if suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
        )
    except Exception as error:  # unpickling and safetensors raise many types
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise IntegrityError(
            f"{path} cannot be read as tensors alone: {reason}. Nothing in it was run."
        ) from error
    return _only_tensors(path, content)


def _is_archive(path: Path) -> bool:
    """Return whether a file has today's format, which can be mapped, not that before torch 1.6."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _only_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    wrapped = content.get("module") if isinstance(content, Mapping) else None
    state = wrapped if isinstance(wrapped, Mapping) else content  # as DeepSpeed saves
    if not isinstance(state, Mapping) or not state:
        raise IntegrityError(f"{path} holds no tensors by name.")
    wrong = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise IntegrityError(f"{path} holds more than tensors: {', '.join(wrong[:5])}.")
    return {str(name).removeprefix("module."): value for name, value in state.items()}
