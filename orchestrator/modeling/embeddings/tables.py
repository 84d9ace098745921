"""Learned tables of an embedding: words, segments and positions.

Legend: B batch, S length, D model width, V vocabulary.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions, Grid
from orchestrator.modeling.embeddings.configs import PosConfig, SegConfig, WordConfig
from orchestrator.modeling.embeddings.stack import EmbeddingPart
from orchestrator.modeling.interfaces import Batch


class WordEmbedding(EmbeddingPart):
    """Row ``input_ids[b, s]`` of ``weight`` [V, D], optionally times sqrt(D)."""

    is_table: ClassVar[bool] = True

    Config = WordConfig

    def __init__(self, config: WordConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.factor = width**0.5 if config.scale else 1.0
        self.rounded = config.scale == "rounded"
        self.weight = nn.Parameter(torch.empty(dimensions.vocab_size, width))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D]; reads ``input_ids``.

        Raises:
            InputError: The batch has no ``input_ids``.
        """
        if "input_ids" not in batch:
            raise InputError(f"The model reads input_ids; the batch has {', '.join(batch)}.")
        rows = F.embedding(batch["input_ids"], self.weight)
        if self.rounded:
            return rows * torch.tensor(self.factor, dtype=rows.dtype).item()
        return rows if self.factor == 1.0 else rows * self.factor


class SegmentEmbedding(EmbeddingPart):
    """Row ``token_type_ids[b, s]`` of ``weight`` [type_vocab_size, D]; row 0 without them."""

    is_table: ClassVar[bool] = True

    Config = SegConfig

    def __init__(self, config: SegConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dimensions.type_vocab_size, dimensions.hidden_size))

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D], or [1, 1, D] if the batch names no segments."""
        segments = batch.get("token_type_ids")
        if segments is None:
            return self.weight[None, :1]
        return F.embedding(segments, self.weight)


def position_ids(
    batch: Batch, total: Tensor | None, limit: int, *, pad_aware: bool = False
) -> Tensor:
    """Return the position of each element: ``batch["position_ids"]`` if given, else 0, 1, 2, ...

    Where tokens are added to earlier ones, ``attention_mask`` covers both, and counting goes on.

    Args:
        batch: The inputs.
        total: Sum of the earlier embedding parts, [B, S, D], which knows the length.
        limit: Number of positions the model has.
        pad_aware: Count real positions only, by ``attention_mask``; padding gets -1.

    Returns:
        int64, [B, S] or [1, S].

    Raises:
        InputError: The sequence is longer than ``limit``, or there is no earlier part.
    """
    if total is None:
        raise InputError("A position part cannot come first. Put `word` or `patch` before it.")
    length = total.shape[1]
    mask = batch.get("attention_mask")
    covered = length if mask is None or "input_ids" not in batch else mask.shape[1]
    end = max(length, covered)
    if end > limit:
        raise InputError(
            f"The sequence has {end} positions; the model has {limit} "
            "(max_position_embeddings). Truncate the input."
        )
    given = batch.get("position_ids")
    if given is not None:
        return given
    if pad_aware and mask is not None:
        real = mask.long()
        return (real.cumsum(1) * real - 1)[:, -length:]
    return torch.arange(end - length, end, device=total.device)[None]


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
        resized = interpolate(patches, grid.side, rows, columns, antialias=grid.antialias)
        return torch.cat([table[:tokens], resized])[None]


def interpolate(
    table: Tensor, side: int, rows: int, columns: int, *, antialias: bool = False
) -> Tensor:
    """Return a table for another number of patches, bicubic as in ViT's fine-tuning.

    Args:
        table: One row for each patch in reading order, [side * side, D].
        side: Patches in a row and in a column that the table was made for.
        rows: Patches in a column now.
        columns: Patches in a row now.
        antialias: Average over more rows where there are fewer patches now.

    Returns:
        [rows * columns, D].

    Raises:
        InputError: The table is not of ``side`` * ``side`` patches.
    """
    if len(table) != side * side:
        raise InputError(f"{len(table)} positions are no grid of {side} by {side} patches.")
    image = table.T.reshape(1, -1, side, side)
    resized = F.interpolate(
        image, size=(rows, columns), mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized[0].flatten(1).T
