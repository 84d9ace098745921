"""Samples: rows or blocks made into batches; a sample does not depend on the batch it is in.

A batch is a dictionary of tensors: ``input_ids``, ``attention_mask``, ``token_type_ids`` (int64
[B, S]) or ``pixel_values`` (float32 [B, C, height, width]), and the labels of a target under
``labels.<name>``. Label -100 means "not predicted", so that every id can be learned, 0 included.

Blocks whose documents are kept apart also have ``document_ids`` and ``position_ids``. A document
begins with the first token of its frame ([CLS], see ``processors.roles``); tokens before the first
one of a block are the rest of an earlier document, and count as a separate document. Padding
belongs to the last document, but is masked. Krell et al. 2021 (arXiv 2107.02027), section 3.2:
positions restart with each document, and attention stays inside it, so a document in a block has
the same result as alone.

Shapes: B batch, S length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import OUTSIDE, TokenBlocks
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.roles import Roles
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.kinds import SampleConfig, samples
from orchestrator.data.samples.masking import IGNORED
from orchestrator.errors import InputError

Batch = dict[str, Tensor]
Packing = Literal["stream", "documents"]


class SampleDataset(Protocol):
    """Samples by index; every random choice depends on (seed, epoch, index) alone."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Number of samples from each source of a mixture, in their order."""
        ...

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch.

        Args:
            indices: Indices of the samples, int64 [B].
            epoch: Epoch of all of them, or of each [B].
        """
        ...


@dataclass(frozen=True, eq=False)
class SampleInputs:
    """Everything that a sample kind is built from, except its options.

    Attributes:
        data: The split: blocks of a corpus, labelled rows, or examples.
        processor: Tokenizer, or the processors of examples; None for labelled images.
        targets: Type of each target of the model → its name.
        seed: seed of all random choices.
        packing: Whether the documents of a block are kept apart.
        training: Whether the split is learned from: only then are pictures of rows cropped.
    """

    data: TokenBlocks | Rows | Examples
    processor: TextProcessor | ExampleProcessor | None
    targets: Mapping[str, str]
    seed: int
    packing: Packing = "stream"
    training: bool = True

    @property
    def blocks(self) -> TokenBlocks:
        """The blocks of a corpus.

        Raises:
            InputError: The data are rows or examples.
        """
        if not isinstance(self.data, TokenBlocks):
            raise InputError("these samples are made from a corpus, not from rows or examples.")
        return self.data

    @property
    def rows(self) -> Rows:
        """The labelled rows.

        Raises:
            InputError: The data are a corpus or examples.
        """
        if not isinstance(self.data, Rows):
            raise InputError("these samples are made from labelled rows.")
        return self.data

    @property
    def examples(self) -> Examples:
        """The examples.

        Raises:
            InputError: The data are a corpus or rows.
        """
        if not isinstance(self.data, Examples):
            raise InputError("these samples are made from examples.")
        return self.data

    @property
    def tokenizer(self) -> TextProcessor:
        """The tokenizer of a corpus or of rows of texts.

        Raises:
            InputError: There is none.
        """
        if not isinstance(self.processor, TextProcessor):
            raise InputError("these samples need the tokenizer of a corpus.")
        return self.processor

    @property
    def example_processor(self) -> ExampleProcessor:
        """The processors of examples.

        Raises:
            InputError: There are none.
        """
        if not isinstance(self.processor, ExampleProcessor):
            raise InputError("these samples need the processors of examples.")
        return self.processor


def build_samples(config: SampleConfig, inputs: SampleInputs) -> SampleDataset:
    """Build the samples of one split: ``build`` of the class that the kind's registration names.

    Raises:
        InputError: The data or the tokenizer lack something.
    """
    built: SampleDataset = samples.component_class(config.type_name()).build(config, inputs)
    return built


def next_tokens(blocks: TokenBlocks, indices: IntArray, ids: IntArray) -> IntArray:
    """Return the token after each of ``ids`` [B, S] in its document, -100 after the last.

    The mark of the next document is predicted only where it also ends a text (see ``Roles``).
    """
    roles = blocks.roles
    after = np.concatenate([ids[:, 1:], blocks.following(indices)[:, None]], axis=1)
    unknown = after == OUTSIDE
    unknown[:, :-1] |= roles.padding(ids)[:, 1:]
    if not roles.opening_ends:
        unknown |= after == roles.opening[0]
    return np.where(unknown, IGNORED, after)


def block_batch(
    inputs: IntArray, ids: IntArray, labels: dict[str, IntArray], packing: Packing, roles: Roles
) -> Batch:
    """Return a batch of blocks.

    Args:
        inputs: Inputs of the model, int64 [B, S].
        ids: The original tokens, int64 [B, S]; they mark padding and documents.
        labels: Labels of each target.
        packing: Whether the documents of a block are kept apart.
        roles: Special tokens of the blocks.
    """
    arrays = {
        "input_ids": inputs,
        "attention_mask": (~roles.padding(ids)).astype(np.int64),
        "token_type_ids": np.zeros_like(ids),
        **layout(ids, packing, roles),
        **{f"labels.{name}": array for name, array in labels.items()},
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def stack(sequences: Sequence[IntArray], filler: int) -> IntArray:
    """Stack sequences of different lengths, filled up on the right: [B, longest]."""
    found = np.full((len(sequences), max(map(len, sequences))), filler, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        found[row, : len(sequence)] = sequence
    return found


def document_ids(ids: IntArray, roles: Roles) -> IntArray:
    """Return the number of the document of each token within its block: int64 [B, S]."""
    return np.cumsum(roles.begins(ids), axis=1)


def document_starts(ids: IntArray, roles: Roles) -> IntArray:
    """Return where in its block the document of each token begins: int64 [B, S]."""
    place = np.arange(ids.shape[1])
    return np.maximum.accumulate(np.where(roles.begins(ids), place, 0), axis=1)


def layout(ids: IntArray, packing: Packing, roles: Roles) -> dict[str, IntArray]:
    """Return what a model needs to keep the documents of a block apart; nothing for a stream.

    Returns:
        ``document_ids`` and ``position_ids``, int64 [B, S].
    """
    if packing == "stream":
        return {}
    position_ids = np.arange(ids.shape[1]) - document_starts(ids, roles)
    return {"document_ids": document_ids(ids, roles), "position_ids": position_ids}
