"""Layouts: places of masters and gradients in an engine that shards parameters."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from orchestrator.training.engine import Shard

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
