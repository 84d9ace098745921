"""Samples: rows or blocks made into batches, the same whatever batch they are in.

A batch is a dictionary of tensors: ``input_ids``, ``attention_mask``, ``token_type_ids`` (int64
[B, S]) or ``pixel_values`` (float32 [B, C, height, width]), and the labels of a target under
``labels.<name>``. Blocks whose documents are read each for itself have ``document_ids`` and
``position_ids`` besides (see ``packing``). Label -100 means "not predicted", so that every id can
be learnt, 0 included.

Shapes: B batch, S length, K classes.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.subwords import sentinel_ids
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.masking import IGNORED, Masking, mask_tokens
from orchestrator.data.samples.packing import Packing, layout
from orchestrator.data.spec import CLS, PAD
from orchestrator.errors import InputError

Batch = dict[str, Tensor]


class SampleDataset(Protocol):
    """Samples by index; every random choice depends on (seed, epoch, index) alone."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Number of samples from each source of a mixture, in their order; together all."""
        ...

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch.

        Args:
            indices: which samples, int64 [B].
            epoch: epoch of all of them, or of each [B].
        """
        ...


class MlmSamples:
    """Blocks with tokens masked anew in every epoch: ``labels.<name>`` [B, S]."""

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "mlm",
        seed: int = 7,
        masking: Masking | None = None,
        packing: Packing = "stream",
    ) -> None:
        self._blocks = blocks
        self.parts = blocks.parts
        self._continues = processor.continues
        self._words = words_of(processor)
        self._packing: Packing = packing
        self._target = target_name
        self._seed = seed
        self._masking = masking or Masking()

    def __len__(self) -> int:
        return len(self._blocks)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of masked blocks."""
        ids = self._blocks.rows(indices)
        masked, labels = mask_tokens(
            ids, indices, epoch, self._seed, self._continues, self._masking, self._words
        )
        return block_batch(masked, ids, {self._target: labels}, self._packing)


class LmSamples:
    """Blocks with the next token of each position: ``labels.<name>`` [B, S], already shifted.

    The last position is asked for the first token of the next block, so every token but the first
    of each document is predicted once. [CLS] and [PAD] are never asked for: nothing before a
    document's beginning tells it.
    """

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor | None = None,
        target_name: str = "lm",
        seed: int = 7,
        packing: Packing = "stream",
    ) -> None:
        del processor, seed  # accepted so that all samples of blocks are made alike
        self._blocks = blocks
        self.parts = blocks.parts
        self._packing: Packing = packing
        self._target = target_name

    def __len__(self) -> int:
        return len(self._blocks)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of blocks with their next tokens."""
        del epoch
        ids = self._blocks.rows(indices)
        labels = {self._target: next_tokens(self._blocks, indices, ids)}
        return block_batch(ids, ids, labels, self._packing)


class BilmSamples:
    """Blocks with the next and the previous token of each position: ``labels.<name>`` [B, S, 2].

    Documents are read in both directions: forward, [SEP] is asked for and [CLS] is not; backward it
    is the other way round. Neither direction looks across a document boundary.
    """

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor | None = None,
        target_name: str = "bilm",
        seed: int = 7,
    ) -> None:
        del processor, seed
        self._blocks = blocks
        self.parts = blocks.parts
        self._target = target_name

    def __len__(self) -> int:
        return len(self._blocks)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of blocks with their neighbours."""
        del epoch
        ids = self._blocks.rows(indices)
        before = np.concatenate([self._blocks.preceding(indices)[:, None], ids[:, :-1]], axis=1)
        known = (ids != CLS) & (ids != PAD) & (before != PAD)
        backward = np.where(known, before, IGNORED)
        forward = next_tokens(self._blocks, indices, ids)
        return block_batch(ids, ids, {self._target: np.stack([forward, backward], axis=-1)})


class ClsSamples:
    """Labelled rows, tokenized once: ``labels.<name>`` as the rows have them, [B] or [B, K].

    Rows of images need no processor. A batch is as long as its longest row.
    """

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str = "cls",
        max_length: int | None = None,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: the rows.
            processor: tokenizer of the texts; None for images.
            target_name: target that is trained.
            max_length: limit in tokens; None takes the processor's.

        Raises:
            InputError: the rows are texts and there is no processor, or there are no rows.
        """
        if not len(rows):
            raise InputError("the data set has no rows. Check the source and its cap.")
        if rows.images is None and processor is None:
            raise InputError("rows of texts need a processor. Give the package's TextProcessor.")
        self._labels = rows.labels
        self.parts = (len(rows),)
        self._target = f"labels.{target_name}"
        self._images = rows.images
        self._arrays: dict[str, IntArray] = {}
        if rows.images is None and processor is not None:
            self._arrays, self._labels = self._encode(rows, processor, max_length)
            self._lengths = self._arrays["attention_mask"].sum(axis=1)

    def __len__(self) -> int:
        return len(self._labels)

    def _encode(
        self, rows: Rows, processor: TextProcessor, max_length: int | None
    ) -> tuple[dict[str, IntArray], npt.NDArray[Any]]:
        """Return the inputs [N, S] and the labels of rows of texts."""
        return processor.arrays(rows.texts, rows.pairs, max_length, "right"), rows.labels

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest row."""
        del epoch
        labels = {self._target: torch.from_numpy(self._labels[indices])}
        if self._images is not None:
            return {"pixel_values": torch.from_numpy(self._images[indices])} | labels
        longest = int(self._lengths[indices].max())
        cut = {name: array[indices, :longest] for name, array in self._arrays.items()}
        return {name: torch.from_numpy(array) for name, array in cut.items()} | labels


def words_of(processor: TextProcessor) -> int:
    """Return how many ids, special ones included, come before the sentinels of a tokenizer."""
    return len(processor.continues) - len(sentinel_ids(processor.tokenizer))


def next_tokens(blocks: TokenBlocks, indices: IntArray, ids: IntArray) -> IntArray:
    """Return the token after each of ``ids`` [B, S] in its document, -100 after the last."""
    after = np.concatenate([ids[:, 1:], blocks.following(indices)[:, None]], axis=1)
    return np.where((after == CLS) | (after == PAD), IGNORED, after)


def block_batch(
    inputs: IntArray, ids: IntArray, labels: dict[str, IntArray], packing: Packing = "stream"
) -> Batch:
    """Return a batch of blocks.

    Args:
        inputs: what the model reads, int64 [B, S].
        ids: the tokens as they were, int64 [B, S]; they tell padding and documents.
        labels: labels of each target.
        packing: whether the documents of a block are kept apart.
    """
    arrays = {
        "input_ids": inputs,
        "attention_mask": (ids != PAD).astype(np.int64),
        "token_type_ids": np.zeros_like(ids),
        **layout(ids, packing),
        **{f"labels.{name}": array for name, array in labels.items()},
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
