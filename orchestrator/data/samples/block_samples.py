"""Samples of blocks for language models: masked, next and both neighbouring tokens.

Shapes: B batch, S block size.
"""

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.samples.base import (
    Batch,
    SampleInputs,
    block_batch,
    next_tokens,
    words_of,
)
from orchestrator.data.samples.kinds import (
    MaskedConfig,
    MaskingConfig,
    NeighboursConfig,
    NextConfig,
)
from orchestrator.data.samples.masking import IGNORED, mask_tokens
from orchestrator.data.samples.packing import Packing
from orchestrator.data.spec import CLS, PAD


class MlmSamples:
    """Blocks with tokens masked anew in every epoch: ``labels.<name>`` [B, S]."""

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "mlm",
        seed: int = 7,
        masking: MaskingConfig | None = None,
        packing: Packing = "stream",
    ) -> None:
        self._blocks = blocks
        self.parts = blocks.parts
        self._continues = processor.continues
        self._words = words_of(processor)
        self._packing: Packing = packing
        self._target = target_name
        self._seed = seed
        self._masking = masking or MaskingConfig()

    @classmethod
    def build(cls, config: MaskedConfig, inputs: SampleInputs) -> "MlmSamples":
        """Build the samples of a split."""
        return cls(
            inputs.blocks,
            inputs.tokenizer,
            inputs.targets["mlm"],
            inputs.seed,
            config.masking,
            inputs.packing,
        )

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

    The last position predicts the first token of the next block, so every token except the first
    of each document is predicted once. [CLS] and [PAD] are never predicted: nothing before a
    document determines it.
    """

    def __init__(
        self,
        blocks: TokenBlocks,
        target_name: str = "lm",
        packing: Packing = "stream",
    ) -> None:
        self._blocks = blocks
        self.parts = blocks.parts
        self._packing: Packing = packing
        self._target = target_name

    @classmethod
    def build(cls, config: NextConfig, inputs: SampleInputs) -> "LmSamples":
        """Build the samples of a split."""
        del config  # it has no options
        return cls(inputs.blocks, inputs.targets["lm"], inputs.packing)

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

    Documents are read in both directions: forward, [SEP] is predicted and [CLS] is not; backward,
    the reverse. Neither direction looks across a document boundary.
    """

    def __init__(self, blocks: TokenBlocks, target_name: str = "bilm") -> None:
        self._blocks = blocks
        self.parts = blocks.parts
        self._target = target_name

    @classmethod
    def build(cls, config: NeighboursConfig, inputs: SampleInputs) -> "BilmSamples":
        """Build the samples of a split."""
        del config  # it has no options
        return cls(inputs.blocks, inputs.targets["bilm"])

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
