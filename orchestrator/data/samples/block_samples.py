"""Samples of blocks: masked, next, neighboring and replaced tokens, and a prefix with its rest.

Prefix language modeling (Raffel et al. 2020, section 3.2.1, "prefix LM"; Dong et al., "UniLM",
NeurIPS 2019): of each text a random number of tokens is the bidirectional prefix, at least one and
not all, all lengths equally likely. ``prefix_mask`` [B, S] marks it; labels are the next tokens
from its last token on, so that no token of the prefix is predicted.

Replaced token detection (Clark et al., "ELECTRA", ICLR 2020, section 3): of the tokens 15 % are
replaced; label 1 where a token is not the original, 0 at every other ordinary token. A replacement
that happens to be the original counts as original. Deviation: ELECTRA trains a small masked
language model beside the discriminator and samples from it. Here replacements are drawn by the
frequency of tokens in the corpus ("unigram", the paper's weakest generator), or with equal
probability ("uniform"). They are easier to detect.

Shapes: B batch, S block size, V vocabulary.
"""

import numpy as np
import torch

from orchestrator.arrays import BoolArray, IntArray
from orchestrator.data.corpora.blocks import OUTSIDE, TokenBlocks
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import (
    Batch,
    Packing,
    SampleInputs,
    block_batch,
    document_starts,
    next_tokens,
)
from orchestrator.data.samples.kinds import (
    MaskedConfig,
    MaskingConfig,
    NeighboursConfig,
    NextConfig,
    PrefixConfig,
    ReplacedConfig,
)
from orchestrator.data.samples.masking import IGNORED, Vocabulary, mask_tokens


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
        self._roles = blocks.roles
        self._roles.require("mask", "masked tokens")
        self._masking = masking or MaskingConfig()
        self._vocabulary = Vocabulary.for_rule(processor, self._roles, self._masking)
        self._packing: Packing = packing
        self._target = target_name
        self._seed = seed

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
            ids, indices, epoch, self._seed, self._vocabulary, self._masking
        )
        return block_batch(masked, ids, {self._target: labels}, self._packing, self._roles)


class LmSamples:
    """Blocks with the next token of each position: ``labels.<name>`` [B, S], already shifted.

    The last position predicts the first token of the next block, so every token except the first
    of each document is predicted once. Padding and the token that only begins a document ([CLS])
    are never predicted: nothing before a document determines it.
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
        return block_batch(ids, ids, labels, self._packing, self._blocks.roles)


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
        roles = self._blocks.roles
        known = ~roles.begins(ids) & ~roles.padding(ids) & (before != OUTSIDE)
        backward = np.where(known, before, IGNORED)
        forward = next_tokens(self._blocks, indices, ids)
        labels = {self._target: np.stack([forward, backward], axis=-1)}
        return block_batch(ids, ids, labels, "stream", roles)


class PrefixSamples:
    """Blocks with a prefix, or with one in each document: ``labels.<name>`` [B, S]."""

    def __init__(
        self,
        blocks: TokenBlocks,
        target_name: str = "lm",
        seed: int = 7,
        packing: Packing = "stream",
    ) -> None:
        self._blocks = blocks
        self._target = target_name
        self._seed = seed
        self._packing: Packing = packing
        self.parts = blocks.parts

    @classmethod
    def build(cls, config: PrefixConfig, inputs: SampleInputs) -> "PrefixSamples":
        """Build the samples of a split."""
        del config  # it has no options
        return cls(inputs.blocks, inputs.targets["lm"], inputs.seed, inputs.packing)

    def __len__(self) -> int:
        return len(self._blocks)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of blocks with their prefixes."""
        ids = self._blocks.rows(indices)
        rows, places = np.arange(len(ids))[:, None], np.arange(ids.shape[1])
        roles, starts = self._blocks.roles, np.zeros_like(ids)
        if self._packing == "documents":
            starts = document_starts(ids, roles)
        real = ~roles.padding(ids)
        luck = uniform(draw(self._seed, Purpose.PREFIX, epoch, indices, ids.shape[1])[0])
        sizes = _sizes(starts, real)
        prefix = 1 + np.floor(luck[rows, starts] * (sizes - 1)).astype(np.int64)
        offset = places - starts
        labels = next_tokens(self._blocks, indices, ids)
        labels = np.where(offset >= prefix - 1, labels, IGNORED)
        batch = block_batch(ids, ids, {self._target: labels}, self._packing, roles)
        shown = (offset < prefix) & real
        return batch | {"prefix_mask": torch.from_numpy(shown.astype(np.int64))}


class ReplacedSamples:
    """Blocks with replaced tokens: ``labels.<name>`` [B, S], 1 replaced, 0 original."""

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "rtd",
        seed: int = 7,
        config: ReplacedConfig | None = None,
        packing: Packing = "stream",
    ) -> None:
        self._blocks = blocks
        self._vocabulary = Vocabulary.of(processor.continues, blocks.roles)
        self._target = target_name
        self._seed = seed
        config = config or ReplacedConfig()
        self._rule = MaskingConfig(share=config.share)
        self._packing: Packing = packing
        self.parts = blocks.parts
        size, drawable = len(processor.continues), self._vocabulary.drawable
        weights = np.zeros(size)
        uniform_weights = config.replacements == "uniform"
        weights[drawable] = 1.0 if uniform_weights else blocks.counts(size)[drawable]
        self._cumulative = np.cumsum(weights) / weights.sum()

    @classmethod
    def build(cls, config: ReplacedConfig, inputs: SampleInputs) -> "ReplacedSamples":
        """Build the samples of a split."""
        return cls(
            inputs.blocks,
            inputs.tokenizer,
            inputs.targets["rtd"],
            inputs.seed,
            config,
            inputs.packing,
        )

    def __len__(self) -> int:
        return len(self._blocks)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of blocks with replaced tokens."""
        ids = self._blocks.rows(indices)
        _, answers = mask_tokens(ids, indices, epoch, self._seed, self._vocabulary, self._rule)
        luck = uniform(draw(self._seed, Purpose.REPLACE, epoch, indices, ids.shape[1])[0])
        other = np.searchsorted(self._cumulative, luck, side="right")
        changed = np.where(answers != IGNORED, other, ids)
        ordinary = self._vocabulary.ordinary[ids]
        labels = np.where(ordinary, (changed != ids).astype(np.int64), IGNORED)
        return block_batch(changed, ids, {self._target: labels}, self._packing, self._blocks.roles)


def _sizes(starts: IntArray, real: BoolArray) -> IntArray:
    """Return the length in real tokens of the text of each token, at least 1: int64 [B, S]."""
    counts = np.zeros_like(starts)
    np.add.at(counts, (np.arange(len(starts))[:, None], starts), real)
    found: IntArray = np.take_along_axis(counts, starts, axis=1)
    return np.maximum(found, 1)
