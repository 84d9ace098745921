"""Learned position embedding.

Legend: B batch, S length, D model width.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions, Grid
from orchestrator.modeling.embeddings.configs import PosConfig
from orchestrator.modeling.embeddings.positions import position_ids
from orchestrator.modeling.interfaces import Batch, EmbeddingPart


class PositionEmbedding(EmbeddingPart):
    """Row ``offset + position`` of ``weight`` [max_position_embeddings + offset, D].

    Pad-aware counting gives padding row ``offset - 1`` and the n-th real token row ``offset + n``
    (RoBERTa with ``offset = pad_token_id + 1``). Beside patches that may come in other numbers, the
    rows of the patches are interpolated to the image's grid.
    """

    is_table: ClassVar[bool] = True

    Config = PosConfig

    def __init__(self, config: PosConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.limit = dimensions.max_position_embeddings
        self.offset = config.offset
        self.pad_aware = config.pad_aware
        self.grid = dimensions.grid
        self.weight = nn.Parameter(torch.empty(self.limit + config.offset, dimensions.hidden_size))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D] or [1, S, D].

        Raises:
            InputError: The sequence is longer than the table.
        """
        if self.grid is not None and total is not None:
            return self._of_patches(batch["pixel_values"], total.shape[1], self.grid)
        positions = position_ids(batch, total, self.limit, pad_aware=self.pad_aware)
        return F.embedding((positions + self.offset).clamp(min=0), self.weight)

    def _of_patches(self, pixels: Tensor, length: int, grid: Grid) -> Tensor:
        """Return [1, S, D] for images [B, C, height, width] of any size."""
        rows, columns = (size // grid.patch_size for size in pixels.shape[-2:])
        tokens = length - rows * columns
        table = self.weight[self.offset :]
        if (rows, columns) == (grid.side, grid.side):
            return table[None, :length]
        patches = table[tokens : tokens + grid.side**2]
        resized = interpolate(patches, grid.side, rows, columns)
        return torch.cat([table[:tokens], resized])[None]


def interpolate(table: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """Return a table for another number of patches, bicubic as in ViT's fine-tuning.

    Args:
        table: One row for each patch in reading order, [side * side, D].
        side: Patches in a row and in a column that the table was made for.
        rows: Patches in a column now.
        columns: Patches in a row now.

    Returns:
        [rows * columns, D].

    Raises:
        InputError: The table is not of ``side`` * ``side`` patches.
    """
    if len(table) != side * side:
        raise InputError(f"{len(table)} positions are no grid of {side} by {side} patches.")
    image = table.T.reshape(1, -1, side, side)
    resized = F.interpolate(image, size=(rows, columns), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T
