"""Labelled rows, with hidden tokens besides: a class and masked words learnt from one batch.

Shapes: B batch, S length, N rows, K labels or numbers.
"""

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.base import Batch, ClsSamples, words_of
from orchestrator.data.samples.image_text import two_streams
from orchestrator.data.samples.masking import IGNORED, Masking, mask_tokens
from orchestrator.errors import InputError


class LabelledSamples(ClsSamples):
    """``labels.<target>`` [B] or [B, K] and, for texts, ``labels.<words target>`` [B, S]."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str = "cls",
        words_target: str | None = None,
        seed: int = 7,
        masking: Masking | None = None,
        max_length: int | None = None,
    ) -> None:
        """Tokenize the rows.

        Raises:
            InputError: there are no rows, texts without a processor, or words to mask in images.
        """
        super().__init__(rows, processor, target_name, max_length)
        if words_target is not None and (processor is None or rows.images is not None):
            raise InputError("images have no tokens to mask. Leave the target mlm out.")
        self._words_target = words_target
        self._seed = seed
        self._masking = masking or Masking()
        self._processor = processor

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest row."""
        batch = super().collate(indices, epoch)
        processor = self._processor
        if self._words_target is None or processor is None:
            return batch
        ids = batch["input_ids"].numpy()
        masked, labels = mask_tokens(
            ids,
            indices,
            epoch,
            self._seed,
            processor.continues,
            self._masking,
            words_of(processor),
        )
        return batch | {
            "input_ids": torch.from_numpy(masked),
            f"labels.{self._words_target}": torch.from_numpy(labels),
        }


class TagSamples(LabelledSamples):
    """Texts with a tag for each word: ``labels.<target>`` [B, S].

    The first token of a word has its tag, the others and special tokens have none (Devlin et al.
    2019, section 5.3).
    """

    def _encode(
        self, rows: Rows, processor: TextProcessor, max_length: int | None
    ) -> tuple[dict[str, IntArray], IntArray]:
        arrays, starts = processor.word_arrays(rows.words, max_length)
        labels = np.full_like(starts, IGNORED)
        for row, tags, words in zip(labels, rows.labels, starts, strict=True):
            begins = words >= 0
            row[begins] = tags[words[begins]]
        return arrays, labels

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest row."""
        batch = super().collate(indices, epoch)
        length = batch["input_ids"].shape[1]
        return batch | {self._target: batch[self._target][:, :length]}


class LabelledPairs:
    """Two texts for two streams, and the class of the pair, ``labels.<name>`` [B] (SBERT)."""

    def __init__(self, rows: Rows, processor: TextProcessor | None, target_name: str) -> None:
        """Take pairs of texts.

        Raises:
            InputError: the rows have one text each, or are images.
        """
        require_pairs(rows)
        if processor is None:
            raise InputError("pairs of texts need a tokenizer.")
        self._rows, self._processor, self._target = rows, processor, target_name
        self.parts = (len(rows),)

    def __len__(self) -> int:
        return len(self._rows)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, each stream cut to its longest text."""
        del epoch
        rows = self._rows.take(indices)
        first, second = (
            self._processor.arrays(texts, side="right") for texts in (rows.texts, rows.pairs or [])
        )
        labels = {f"labels.{self._target}": torch.from_numpy(rows.labels)}
        return two_streams(first, second, self._target) | labels
