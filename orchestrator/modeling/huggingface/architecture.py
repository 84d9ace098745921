"""One class of transformers as an assembly of our components: configs and tables of tensor names.

A table says for each tensor of theirs which of ours it is: it renames, transposes, splits and
joins. The same table works on weights and on gradients, in both directions; what a table does not
mention is an error, never silently dropped. Names are those of the files that ``save_pretrained``
writes, which stay the same between releases of transformers; names inside their classes do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.config import require_no_problems
from orchestrator.errors import ConfigError, IntegrityError, Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.values import JsonObject, Values

if TYPE_CHECKING:
    from torch import Tensor

LAYER = "{layer}"
"""Stands for the layer number in names of a table."""

Fetch = Callable[[str], "Tensor"]
"""Reads one tensor by its name."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tensors of theirs and what they are here; one of the two sides has a single name.

    Attributes:
        theirs: Names in transformers' files; several are joined along a new first axis (experts).
        ours: Names here; several split the tensor into equal parts along its first axis.
        transposed: Theirs is the transpose ([in, out], GPT-2's Conv1D); split after transposing.
        leading_axes: Number of axes of size 1 that theirs has in front of ours; negative: fewer.
        heads: Theirs holds the parts head by head (BLOOM: query, key, value of head 0, then of head
            1, ...); 0: part by part.
        sizes: Rows of each part where they differ (fewer key heads than query heads).
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transposed: bool = False
    leading_axes: int = 0
    heads: int = 0
    sizes: tuple[int, ...] = ()

    def at(self, layer: int) -> Row:
        """Return the row of one layer."""
        number = str(layer)
        ours = tuple(name.replace(LAYER, number) for name in self.ours)
        theirs = tuple(name.replace(LAYER, number) for name in self.theirs)
        return replace(self, theirs=theirs, ours=ours)

    def to_ours(self, fetch: Fetch) -> dict[str, Tensor]:
        """Return our tensors; views where possible."""
        if len(self.theirs) > 1:
            return {self.ours[0]: _cat([fetch(name)[None] for name in self.theirs])}
        tensor = fetch(self.theirs[0])
        tensor = tensor.t() if self.transposed else tensor
        tensor = _without_axes(tensor, self.leading_axes)
        count = len(self.ours)
        if self.heads:
            tensor = (
                tensor.reshape(self.heads, count, -1, *tensor.shape[1:])
                .transpose(0, 1)
                .flatten(0, 2)
            )
        if self.sizes:
            parts = tensor.split_with_sizes(self.sizes)
        else:
            parts = tensor.chunk(count) if count > 1 else (tensor,)
        return dict(zip(self.ours, parts, strict=True))

    def to_theirs(self, fetch: Fetch) -> dict[str, Tensor]:
        """Return their tensors, contiguous where they are rearranged."""
        if len(self.theirs) > 1:
            return dict(zip(self.theirs, fetch(self.ours[0]).unbind(), strict=True))
        parts = [fetch(name) for name in self.ours]
        tensor = _cat(parts) if len(parts) > 1 else parts[0]
        if self.heads:
            count = len(self.ours)
            tensor = (
                tensor.reshape(count, self.heads, -1, *tensor.shape[1:])
                .transpose(0, 1)
                .flatten(0, 2)
            )
        tensor = _without_axes(tensor, -self.leading_axes)
        return {self.theirs[0]: tensor.t().contiguous() if self.transposed else tensor}


Table = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Tensors that files hold although the table does not name them.

    Attributes:
        pattern: Pattern of their names.
        of: Name in the table of the tensor that they must equal. Where a file lacks that tensor,
            they stand in for it, as in transformers.
        value: Our config → the value that they must have, to rounding.

    With neither ``of`` nor ``value``, their class does not read them.
    """

    pattern: str
    of: str = ""
    value: Callable[[ModelConfig], Tensor] | None = None

    def matches(self, name: str) -> bool:
        """Return whether a name is meant; files of a body alone lack the first part of names."""
        _, _, rest = self.pattern.partition(".")
        return fnmatch(name, self.pattern) or ("." in rest and fnmatch(name, rest))


@dataclass(frozen=True, slots=True)
class Architecture:
    """One class of transformers as an assembly of our components.

    Attributes:
        name: Name of the class, as in ``architectures`` of their config: ``BertForPreTraining``.
        model_type: Their ``model_type``: ``bert``.
        model_config: Their config → our model config. Raises ``InputError`` for a value that has no
            counterpart here, with the value and what is supported.
        their_config: Our config → their config without ``architectures`` and ``model_type``; may
            assume that the config is one that ``model_config`` returns. Whether it is one is tested
            by going there and back.
        table: Our config → which tensor of theirs is which of ours, layers written out. A tensor
            that their file stores under a second name (tied weights) is left out.
        repeated: Names under which files store a tensor once more, or store what is computed
            (position ids, sine tables).
        computed: Our config → tensors that files may lack because the class makes them itself (sine
            tables, zeros), by their names.
        processor: What turns raw input into a batch: ``text``, ``ended_text`` (texts that end with
            an end token, whose vector is read), ``image``, ``image_text``, ``log_mel`` or
            ``waveform``.
        pad_token_id: The id that padding must have, where the class reads more into it.
        arguments: Our config → further arguments of their constructor (no pooler).
        front: Name that files may have in front of all tensors of a body (``text_model``).
        splits: Whether the class cuts tensors of its files into parts (GTE).
        unnamed: Whether the family is published without ``architectures``, and read as this class.
        renames: Their config → beginnings of names in the table → those in files with that config.
    """

    name: str
    model_type: str
    model_config: Callable[[Values], ModelConfig]
    their_config: Callable[[ModelConfig], JsonObject]
    table: Callable[[ModelConfig], Table]
    repeated: tuple[Repeat, ...] = ()
    computed: Callable[[ModelConfig], dict[str, Tensor]] = lambda config: {}
    processor: str = "text"
    pad_token_id: int | None = None
    arguments: Callable[[ModelConfig], dict[str, bool]] = lambda config: {}
    front: str = ""
    splits: bool = False
    unnamed: bool = False
    renames: Callable[[JsonObject], Mapping[str, str]] = lambda theirs: {}

    def rows(self, config: ModelConfig, theirs: JsonObject) -> Table:
        """Return the table with the names that files with a config of theirs have."""
        renames = self.renames(theirs).items()
        if not renames:
            return self.table(config)

        def renamed(name: str) -> str:
            found = (new + name.removeprefix(old) for old, new in renames if name.startswith(old))
            return next(found, name)

        return [
            replace(row, theirs=tuple(renamed(name) for name in row.theirs))
            for row in self.table(config)
        ]

    def read(self, theirs: Values, source: str) -> ModelConfig:
        """Return our config of theirs, checked.

        Args:
            theirs: Their config, complete.
            source: What messages call it.

        Raises:
            InputError: A value has no counterpart here.
            ConfigError: The values do not fit together.
        """
        try:
            ours = self.model_config(theirs)
        except ValidationError as error:
            problems = [
                Problem(".".join([error.title, *map(str, each["loc"])]), each["msg"])
                for each in error.errors()
            ]
            raise ConfigError(source, problems) from error
        require_no_problems(ours, source)
        return ours


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, advice and warnings of transformers; errors are still shown."""
    from transformers.utils import logging as their_logging

    level = their_logging.get_verbosity()
    bars = their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity(logging.ERROR)
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()


def same(theirs: str, *ours: str, **how: int) -> Row:
    """Return the row of one tensor of theirs."""
    return Row((theirs,), ours, **how)  # type: ignore[arg-type]


def weight(theirs: str, *ours: str, **how: int) -> Row:
    """Return the row of the weight of a layer without bias."""
    return same(f"{theirs}.weight", *(f"{name}.weight" for name in ours), **how)


def linear(theirs: str, *ours: str, transposed: bool = False, heads: int = 0) -> tuple[Row, Row]:
    """Return the rows of a linear layer's or norm's weight and bias."""
    return (
        weight(theirs, *ours, transposed=transposed, heads=heads),
        same(f"{theirs}.bias", *(f"{name}.bias" for name in ours), heads=heads),
    )


def expand(table: Iterable[Row], num_layers: int) -> list[Row]:
    """Return the table with every layer's rows written out."""
    rows: list[Row] = []
    for row in table:
        layered = any(LAYER in name for name in (*row.theirs, *row.ours))
        rows += [row.at(layer) for layer in range(num_layers)] if layered else [row]
    return rows


def to_ours(table: Table, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their tensors under our names and in our layout; views where possible.

    Args:
        table: The rows of a model, layers written out.
        state: Their tensors by name.

    Raises:
        IntegrityError: Names of theirs are missing or not in the table; all are listed.
    """
    require_same({name for row in table for name in row.theirs}, set(state))
    result: dict[str, Tensor] = {}
    for row in table:
        result.update(row.to_ours(state.__getitem__))
    return result


def to_theirs(table: Table, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors under their names and in their layout.

    Raises:
        IntegrityError: Names of ours are missing or not in the table; all are listed.
    """
    require_same({name for row in table for name in row.ours}, set(state))
    result: dict[str, Tensor] = {}
    for row in table:
        result.update(row.to_theirs(state.__getitem__))
    return result


def layouts(table: Table, fetch: Fetch) -> Iterator[Tensor]:
    """Yield our tensors as files of theirs hold them, one row of the table in memory at a time.

    Where a file joins several of ours, they follow: their model may take them apart again.
    """
    for row in table:
        yield from row.to_theirs(fetch).values()
        if len(row.ours) > 1:
            yield from (fetch(name) for name in row.ours)


def require_same(expected: set[str], found: set[str]) -> None:
    """Refuse a difference between the names of a table and those of a file.

    Raises:
        IntegrityError: Lists every missing and unexpected name.
    """
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        raise IntegrityError(
            f"The tensors do not fit the architecture. Missing: {missing or 'none'}. "
            f"Unexpected: {unexpected or 'none'}."
        )


def _cat(parts: list[Tensor]) -> Tensor:
    import torch  # tables are also read without torch

    return torch.cat(parts)


def _without_axes(tensor: Tensor, count: int) -> Tensor:
    """Return the tensor without its first axes (of size 1), or with more of them."""
    shape = tensor.shape[count:] if count >= 0 else (1,) * -count + tensor.shape
    return tensor.reshape(shape)
