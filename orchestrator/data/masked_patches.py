"""Pictures with hidden patches, whose codes are asked for (BEiT, Bao et al. 2022, section 2.3).

The codes are those of the picture that the model reads, after the random part was cut out of it;
``patch_codes`` says what they are, ``patch_masking`` which patches are hidden.

Shapes: B batch, C channels, P patches, S positions: tokens before the patches, and P.
"""

import numpy as np
import torch

from orchestrator.data.example_processor import ExampleProcessor
from orchestrator.data.example_rows import Examples
from orchestrator.data.masking import IGNORED
from orchestrator.data.patch_masking import BlockMasking
from orchestrator.data.picture_batches import PictureBatches
from orchestrator.data.randomness import IntArray
from orchestrator.data.sample_configs import MaskedPatchesConfig
from orchestrator.data.samples import Batch
from orchestrator.errors import InputError


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
            InputError: they have no codes.
        """
        shape, codebook = examples.inputs.picture, processor.codebook
        if shape is None or codebook is None:
            raise InputError("these examples have no pictures with codes of patches.")
        self._shape, self._codebook = shape, codebook
        self._examples, self._target, self._seed = examples, target_name, seed
        self._pictures = PictureBatches(examples, processor, config.crop, seed)
        self._rule = BlockMasking(shape.grid, config.share, config.smallest_block)
        self.parts = (len(examples),)

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
