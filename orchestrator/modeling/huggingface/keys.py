"""Rename, transpose and split tensors between transformers' layouts and ours, by tables.

A table says for each of their tensors which of ours it is. The same table works on weights and on
gradients, in both directions; what a table does not mention is an error, never silently dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orchestrator.errors import IntegrityError

LAYER = "{layer}"
"""Stands for the layer number in names of a table."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of theirs and what it is here.

    Attributes:
        theirs: Name in transformers' state dict.
        ours: Names here; several split the tensor into equal parts along its first axis.
        transposed: Theirs is the transpose ([in, out], GPT-2's Conv1D); split after transposing.
        leading_axes: Number of axes of size 1 that theirs has in front of ours.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    leading_axes: int = 0

    def at(self, layer: int) -> "Row":
        """Return the row of one layer."""
        number = str(layer)
        ours = tuple(name.replace(LAYER, number) for name in self.ours)
        return replace(self, theirs=self.theirs.replace(LAYER, number), ours=ours)


Table = Sequence[Row]


def linear(theirs: str, *ours: str, transposed: bool = False) -> tuple[Row, Row]:
    """Return the rows of a linear layer's or norm's weight and bias."""
    return (
        Row(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), transposed),
        Row(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours)),
    )


def expand(table: Table, num_layers: int) -> list[Row]:
    """Return the table with every layer's rows written out."""
    rows = [row for row in table if LAYER not in row.theirs]
    layered = [row for row in table if LAYER in row.theirs]
    return rows + [row.at(layer) for layer in range(num_layers) for row in layered]


def to_ours(
    table: Table, state: Mapping[str, Tensor], *, num_layers: int, ignored: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return their tensors under our names and in our layout; views where possible.

    Args:
        table: The family's table.
        state: Their tensors by name.
        num_layers: Layers of the model.
        ignored: Names of theirs that hold nothing of their own (second names of tied weights).

    Raises:
        IntegrityError: Names of theirs are missing or not in the table; all are listed.
    """
    rows = expand(table, num_layers)
    _require_same({row.theirs for row in rows}, set(state) - set(ignored))
    result: dict[str, Tensor] = {}
    for row in rows:
        tensor = state[row.theirs].t() if row.transposed else state[row.theirs]
        tensor = tensor.reshape(tensor.shape[row.leading_axes :])
        parts = tensor.chunk(len(row.ours)) if len(row.ours) > 1 else (tensor,)
        result.update(zip(row.ours, parts, strict=True))
    return result


def to_theirs(table: Table, state: Mapping[str, Tensor], *, num_layers: int) -> dict[str, Tensor]:
    """Return our tensors under their names and in their layout.

    Raises:
        IntegrityError: Names of ours are missing or not in the table; all are listed.
    """
    rows = expand(table, num_layers)
    _require_same({name for row in rows for name in row.ours}, set(state))
    result: dict[str, Tensor] = {}
    for row in rows:
        parts = [state[name] for name in row.ours]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        tensor = tensor.reshape((1,) * row.leading_axes + tensor.shape)
        result[row.theirs] = tensor.t().contiguous() if row.transposed else tensor
    return result


def _require_same(expected: set[str], found: set[str]) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        raise IntegrityError(
            f"The tensors do not fit the family's table. Missing: {missing or 'none'}. "
            f"Unexpected: {unexpected or 'none'}."
        )
