"""Labelled rows with masked tokens: classification and MLM from one batch.

Shapes: B batch, S length, N rows, K labels or numbers.
"""

import numpy as np
import torch

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.processors.templates import Template
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.base import Batch, SampleInputs
from orchestrator.data.samples.image_text import two_streams
from orchestrator.data.samples.kinds import LabelledConfig, MaskingConfig
from orchestrator.data.samples.masking import IGNORED, Vocabulary, mask_tokens
from orchestrator.data.samples.media_samples import LabelledPictures
from orchestrator.errors import InputError


class ClsSamples:
    """Labelled rows, tokenized once: ``labels.<name>`` as the rows have them, [B] or [B, K].

    Rows of images need no processor. A batch is as long as its longest row.

    Attributes:
        lengths: Tokens of each row, int64 [N]; None for images.
    """

    lengths: IntArray | None = None

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str = "cls",
        max_length: int | None = None,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: The rows.
            processor: Tokenizer of the texts; None for images.
            target_name: Target that is trained.
            max_length: Limit in tokens; None takes the processor's.

        Raises:
            InputError: The rows are texts and there is no processor, or there are no rows.
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
            self.lengths = self._arrays["attention_mask"].sum(axis=1)

    def __len__(self) -> int:
        return len(self._labels)

    def _encode(
        self, rows: Rows, processor: TextProcessor, max_length: int | None
    ) -> tuple[dict[str, IntArray], AnyArray]:
        """Return the inputs [N, S] and the labels of rows of texts."""
        return processor.arrays(rows.texts, rows.pairs, max_length, "right"), rows.labels

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest row."""
        del epoch
        labels = {self._target: torch.from_numpy(self._labels[indices])}
        if self._images is not None:
            return {"pixel_values": torch.from_numpy(self._images[indices])} | labels
        assert self.lengths is not None  # rows of texts
        longest = int(self.lengths[indices].max())
        cut = {name: array[indices, :longest] for name, array in self._arrays.items()}
        return {name: torch.from_numpy(array) for name, array in cut.items()} | labels


class TemplateSamples(ClsSamples):
    """Labelled rows in a template with a mask, for classification by words."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str,
        max_length: int | None,
        template: Template,
    ) -> None:
        """Tokenize the rows.

        Raises:
            InputError: Rows and template do not fit, or the rows are not texts.
        """
        if rows.modality not in ("text", "pair"):
            raise InputError(f"a template is filled with texts, and the rows are {rows.modality}.")
        self._template = template
        super().__init__(rows, processor, target_name, max_length)

    def _encode(
        self, rows: Rows, processor: TextProcessor, max_length: int | None
    ) -> tuple[dict[str, IntArray], AnyArray]:
        limit = processor.max_length if max_length is None else max_length
        found = self._template.tokens(processor, rows.texts, rows.pairs, limit)
        lengths = np.asarray([len(ids) for ids in found])
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(real.shape, processor.settings.pad_id, dtype=np.int64)
        ids[real] = np.concatenate(found)
        arrays = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
        return arrays | {"token_type_ids": np.zeros_like(ids)}, rows.labels


class LabelledSamples(ClsSamples):
    """``labels.<target>`` [B] or [B, K] and, for texts, ``labels.<words target>`` [B, S]."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str = "cls",
        words_target: str | None = None,
        seed: int = 7,
        masking: MaskingConfig | None = None,
        max_length: int | None = None,
    ) -> None:
        """Tokenize the rows.

        Raises:
            InputError: There are no rows, texts without a processor, or words to mask in images.
        """
        super().__init__(rows, processor, target_name, max_length)
        if words_target is not None and (processor is None or rows.images is not None):
            raise InputError("images have no tokens to mask. Leave the target mlm out.")
        self._words_target = words_target
        self._seed = seed
        self._masking = masking or MaskingConfig()
        self._vocabulary: Vocabulary | None = None
        if words_target is not None and processor is not None:
            processor.roles.require("mask", "masked tokens")
            self._vocabulary = Vocabulary.for_rule(processor, processor.roles, self._masking)

    @classmethod
    def build(
        cls, config: LabelledConfig, inputs: SampleInputs
    ) -> "LabelledSamples | LabelledPairs | LabelledPictures":
        """Build the samples of a split, in the form that the targets read."""
        processor = inputs.processor if isinstance(inputs.processor, TextProcessor) else None
        if "siamese" in inputs.targets:
            return LabelledPairs(inputs.rows, processor, inputs.targets["siamese"])
        (name,) = (inputs.targets[target] for target in config.wants if target in inputs.targets)
        if inputs.rows.pictures is not None:
            return LabelledPictures(config, inputs, name)
        kind = TagSamples if "tags" in inputs.targets else LabelledSamples
        words = inputs.targets.get("mlm")
        return kind(inputs.rows, processor, name, words, inputs.seed, config.masking)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest row."""
        batch = super().collate(indices, epoch)
        if self._vocabulary is None:
            return batch
        ids = batch["input_ids"].numpy()
        masked, labels = mask_tokens(
            ids,
            indices,
            epoch,
            self._seed,
            self._vocabulary,
            self._masking,
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
            InputError: The rows have one text each, or are images.
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
