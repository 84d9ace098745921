"""Pictures and captions, as pairs or in one sequence; and two texts that belong together as a pair.

Pairs are for two streams (CLIP, Radford et al. 2021, section 2.3). Each text has to find its
partner among those of the other rows of the batch (in-batch negatives; Henderson et al. 2017,
"Efficient Natural Language Response Suggestion for Smart Reply", section 4.3).

For one sequence, the label is whether both belong together (ViLT, Kim et al. 2021, section 3.2).
Half of the pictures then get the caption of another picture, as in ViLT; a caption with the same
words is never taken as another one. Tokens are masked where picture and caption belong together.
Deviation: ViLT uses different batches for its two targets, here one batch has both.

Shapes: B batch, S tokens of the captions, P positions of the pictures.
"""

from collections.abc import Mapping

import numpy as np
import torch

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs
from orchestrator.data.samples.kinds import ImageTextConfig, TextPairsConfig
from orchestrator.data.samples.masked_patches import PictureBatches
from orchestrator.data.samples.masking import IGNORED, Vocabulary, mask_tokens

DRAWS = 8  # attempts to find another caption
SECOND = "second."
"""Prefix of the inputs of the second stream."""

Arrays = Mapping[str, AnyArray]


class ImageTextPairs:
    """Captions and ``pixel_values`` for two streams, ``labels.<name>`` [B] of ones."""

    def __init__(
        self,
        examples: Examples,
        processor: ExampleProcessor,
        target_name: str,
        seed: int,
        config: ImageTextConfig,
    ) -> None:
        self._examples, self._words = examples, processor.words
        self._target = target_name
        self._pictures = PictureBatches(examples, processor, config.crop, seed)
        self.parts = (len(examples),)

    @classmethod
    def build(
        cls, config: ImageTextConfig, inputs: SampleInputs
    ) -> "ImageTextPairs | ImageTextMatches":
        """Build the samples of a split: pairs for a target clr, matches for a target itm."""
        examples, processor, targets = inputs.examples, inputs.example_processor, inputs.targets
        if "clr" in targets:
            return cls(examples, processor, targets["clr"], inputs.seed, config)
        name, words = targets["itm"], targets.get("mlm")
        return ImageTextMatches(examples, processor, name, words, inputs.seed, config)

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of pairs, in the order of the model's streams."""
        pictures = {"pixel_values": self._pictures(indices, epoch)}
        texts = self._words.arrays(self._examples.text(indices), side="right")
        if self._examples.inputs.text_first:
            return two_streams(texts, pictures, self._target)
        return two_streams(pictures, texts, self._target)


class ImageTextMatches:
    """Captions and ``pixel_values`` in one sequence.

    ``labels.<name>`` [B]: 1 where they belong together; ``labels.<words target>`` [B, S + P].
    """

    def __init__(
        self,
        examples: Examples,
        processor: ExampleProcessor,
        target_name: str,
        words_target: str | None,
        seed: int,
        config: ImageTextConfig,
    ) -> None:
        self._examples, self._words, self._seed = examples, processor.words, seed
        self._target, self._words_target = target_name, words_target
        self._share, self._masking = config.mismatched, config.masking
        if words_target is not None:
            self._words.roles.require("mask", "masked tokens")
            self._vocabulary = Vocabulary.for_rule(self._words, self._words.roles, self._masking)
        self._pictures = PictureBatches(examples, processor, config.crop, seed)
        shape = examples.inputs.picture
        self._positions = 0 if shape is None else shape.tokens + shape.patches
        self.parts = (len(examples),)

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch."""
        owners = self._owners(indices, epoch)
        texts = self._examples.text(owners)
        own = self._examples.text(indices)
        matched = np.asarray([a == b for a, b in zip(texts, own, strict=True)])
        arrays = self._words.arrays(texts, side="right")
        labels = {self._target: matched.astype(np.int64)}
        if self._words_target is not None:
            arrays["input_ids"], words = self._masked(arrays["input_ids"], indices, epoch)
            labels[self._words_target] = self._over_both(np.where(matched[:, None], words, IGNORED))
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        batch["pixel_values"] = torch.from_numpy(self._pictures(indices, epoch))
        return batch | {f"labels.{n}": torch.from_numpy(array) for n, array in labels.items()}

    def _owners(self, indices: IntArray, epoch: int | IntArray) -> IntArray:
        """Return the index of the example whose caption each picture gets, int64 [B]."""
        words = draw(self._seed, Purpose.MISMATCH, epoch, indices, DRAWS)
        luck, place = uniform(words[0]), uniform(words[1])
        rows, owners = len(self._examples), indices.copy()
        for row in np.flatnonzero(luck[:, 0] < self._share):
            others = (place[row] * rows).astype(np.int64)
            own, *texts = self._examples.text(np.append(indices[row], others))
            different = [each for each, text in zip(others, texts, strict=True) if text != own]
            owners[row] = different[0] if different else indices[row]
        return owners

    def _masked(
        self, ids: IntArray, indices: IntArray, epoch: int | IntArray
    ) -> tuple[IntArray, IntArray]:
        return mask_tokens(
            ids,
            indices,
            epoch,
            self._seed,
            self._vocabulary,
            self._masking,
        )

    def _over_both(self, labels: IntArray) -> IntArray:
        """Append the unlabelled positions of the pictures to the labels of the texts."""
        return np.pad(labels, ((0, 0), (0, self._positions)), constant_values=IGNORED)


def two_streams(first: Arrays, second: Arrays, target_name: str) -> Batch:
    """Return the inputs of both streams; the label of every row is 1, "they belong together"."""
    arrays = {**first, **{f"{SECOND}{name}": array for name, array in second.items()}}
    rows = len(next(iter(first.values())))
    labels = {f"labels.{target_name}": torch.ones(rows, dtype=torch.int64)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | labels


class TextPairs:
    """Both texts for two streams, and ``labels.<name>`` [B] of ones."""

    def __init__(self, examples: Examples, processor: ExampleProcessor, target_name: str) -> None:
        self._examples, self._words = examples, processor.words
        self._target = target_name
        self.parts = (len(examples),)

    @classmethod
    def build(cls, config: TextPairsConfig, inputs: SampleInputs) -> "TextPairs":
        """Build the samples of a split."""
        del config  # it has no options
        return cls(inputs.examples, inputs.example_processor, inputs.targets["clr"])

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of pairs."""
        del epoch
        first = self._words.arrays(self._examples.text(indices), side="right")
        second = self._words.arrays(self._examples.pair(indices), side="right")
        return two_streams(first, second, self._target)
