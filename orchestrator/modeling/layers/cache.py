"""Keys and values of earlier positions, so that a growing sequence does not compute them again.

Legend: B batch, T positions, G key and value heads, d head size.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class KeyValues:
    """Keys and values of one attention layer, [B, G, T, d] each; None before the first call."""

    key: Tensor | None = None
    value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of new positions; return all."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], 2), torch.cat([self.value, value], 2)
        self.key, self.value = key, value
        return key, value

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order (beam search)."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key.index_select(0, rows), self.value.index_select(0, rows)


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one block: of its own sequence, and of the one it cross-attends to."""

    own: KeyValues = field(default_factory=KeyValues)
    across: KeyValues = field(default_factory=KeyValues)


class Cache:
    """Keys and values of all blocks of an encoder or decoder while a sequence grows."""

    def __init__(self) -> None:
        self.layers: list[LayerCache] = []

    @property
    def length(self) -> int:
        """Positions read so far."""
        key = self.layers[0].own.key if self.layers else None
        return 0 if key is None else key.shape[2]

    def layer(self, index: int) -> LayerCache:
        """Return the part of the block that is applied as number ``index``."""
        while len(self.layers) <= index:
            self.layers.append(LayerCache())
        return self.layers[index]

    def select(self, rows: Tensor, *, across: bool = True) -> None:
        """Keep these rows of the batch, in this order (beam search).

        Args:
            rows: Indices.
            across: Also of what is read across; False where each row still reads the same.
        """
        for layer in self.layers:
            layer.own.select(rows)
            if across:
                layer.across.select(rows)
