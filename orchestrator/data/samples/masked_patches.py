"""Pictures with masked patches, whose codes are predicted (BEiT, Bao et al. 2022, section 2.3).

The codes are those of the picture that the model reads, after the random crop; ``patch_codes``
defines them.

Masks are blocks of patches (algorithm 1 of the paper): blocks of at least 16 patches with a random
aspect ratio between 0.3 and 1 / 0.3 are masked until 40 % of the patches are. As in BEiT's code, a
block that would mask too many is drawn again. Deviations: the smallest block is in proportion to
the picture (16 of 196 patches), and when the attempts are used up, single patches complete the
mask, so that every picture has the same number of labels. Every choice depends on (seed, epoch,
sample) alone.

Shapes: B batch, C channels, P patches, S positions: tokens before the patches, and P.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from orchestrator.arrays import BoolArray, Float32Array, FloatArray, IntArray
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.media.inputs import CropConfig
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs
from orchestrator.data.samples.kinds import MaskedPatchesConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ATTEMPTS = 32
MIN_RATIO = 0.3  # of height to width of a block
MIN_SHARE = 16 / 196  # of the patches in a block


class Pictures(Protocol):
    """Pictures of examples, or of labelled rows.

    Attributes:
        training: Whether they are cropped at random.
    """

    training: bool

    def pictures(self, indices: IntArray) -> "list[Image]":
        """Return the pictures."""
        ...


class PictureBatches:
    """Makes ``pixel_values`` of examples; crops depend on (seed, epoch, sample) alone."""

    def __init__(
        self, examples: Pictures, processor: ExampleProcessor, crop: CropConfig | None, seed: int
    ) -> None:
        """Take the examples of a split; only those for training are cropped.

        Raises:
            InputError: They have no pictures.
        """
        if processor.picture is None:
            raise InputError("these examples have no pictures.")
        self._examples, self._seed = examples, seed
        self._processor: ImageProcessor = processor.picture
        self._crop = crop if examples.training else None

    def __call__(self, indices: IntArray, epoch: int | IntArray) -> Float32Array:
        """Return float32 [B, C, height, width]."""
        pictures = self._examples.pictures(indices)
        if self._crop is None:
            return self._processor.arrays(pictures)["pixel_values"]
        made = self._processor.augmented(pictures, self._crop, indices, epoch, self._seed)
        return made["pixel_values"]


@dataclass(frozen=True, slots=True)
class BlockMasking:
    """The choice of masked patches.

    Attributes:
        grid: Patches per row and per column.
        share: Share of the patches that are masked.
        smallest: Minimum number of patches per block; None: in BEiT's proportion.
    """

    grid: int
    share: float = 0.4
    smallest: int | None = None

    @property
    def count(self) -> int:
        """Masked patches per picture: the rounded share, at least one."""
        return max(1, round(self.share * self.grid**2))

    def choose(self, samples: IntArray, epoch: int | IntArray, seed: int) -> BoolArray:
        """Return the mask of each picture.

        Args:
            samples: Index of each picture in the data set [B].
            epoch: Epoch of all pictures, or of each [B].
            seed: seed of the job.

        Returns:
            bool [B, P].
        """
        words = draw(seed, Purpose.PATCHES, epoch, samples, ATTEMPTS + self.grid**2)
        luck = np.stack([uniform(word) for word in words])  # [4, B, ATTEMPTS + P]
        return np.stack([self._one(luck[:, row]) for row in range(len(samples))])

    def _one(self, luck: FloatArray) -> BoolArray:
        hidden = np.zeros((self.grid, self.grid), dtype=np.bool_)
        default = max(1, round(MIN_SHARE * self.grid**2))
        smallest = min(self.smallest or default, self.count)
        for area, ratio, down, across in luck[:, :ATTEMPTS].T:
            room = self.count - int(hidden.sum())
            if room < 1:
                break
            size = smallest + area * max(room - smallest, 0)
            shape = np.exp((2 * ratio - 1) * -np.log(MIN_RATIO))
            height, width = round(np.sqrt(size * shape)), round(np.sqrt(size / shape))
            if not (0 < height <= self.grid and 0 < width <= self.grid):
                continue
            top = int(down * (self.grid - height + 1))
            left = int(across * (self.grid - width + 1))
            block = hidden[top : top + height, left : left + width]
            if block.size - block.sum() <= room:
                block[...] = True
        return self._completed(hidden.ravel(), luck[0, ATTEMPTS:])

    def _completed(self, hidden: BoolArray, luck: FloatArray) -> BoolArray:
        """Mask single patches until the count is reached."""
        missing = self.count - int(hidden.sum())
        free = np.argsort(np.where(hidden, 2.0, luck), kind="stable")[:missing]
        hidden[free] = True
        return hidden


class MaskedPatchSamples:
    """``pixel_values``, ``masked_positions`` [B, P] and ``labels.<name>`` [B, S]."""

    def __init__(
        self,
        examples: Examples,
        processor: ExampleProcessor,
        target_name: str,
        seed: int,
        config: MaskedPatchesConfig,
    ) -> None:
        """Take pictures.

        Raises:
            InputError: They have no codes.
        """
        shape, codebook = examples.inputs.picture, processor.codebook
        if shape is None or codebook is None:
            raise InputError("these examples have no pictures with codes of patches.")
        self._shape, self._codebook = shape, codebook
        self._examples, self._target, self._seed = examples, target_name, seed
        self._pictures = PictureBatches(examples, processor, config.crop, seed)
        self._rule = BlockMasking(shape.grid, config.share, config.smallest_block)
        self.parts = (len(examples),)

    @classmethod
    def build(cls, config: MaskedPatchesConfig, inputs: SampleInputs) -> "MaskedPatchSamples":
        """Build the samples of a split."""
        processor, name = inputs.example_processor, inputs.targets["mim"]
        return cls(inputs.examples, processor, name, inputs.seed, config)

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of pictures."""
        pixels = self._pictures(indices, epoch)
        hidden = self._rule.choose(indices, epoch, self._seed)
        codes = self._codebook.codes(pixels, self._shape.patch_size)
        before = np.full((len(indices), self._shape.tokens), IGNORED, dtype=np.int64)
        labels = np.concatenate([before, np.where(hidden, codes, IGNORED)], axis=1)
        return {
            "pixel_values": torch.from_numpy(pixels),
            "masked_positions": torch.from_numpy(hidden),
            f"labels.{self._target}": torch.from_numpy(labels),
        }
