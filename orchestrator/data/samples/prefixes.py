"""Prefix language modelling: a bidirectional prefix, and a rest that is predicted.

Raffel et al. 2020, section 3.2.1 ("prefix LM"), Dong et al., "UniLM" (NeurIPS 2019): of each text a
random number of tokens is the prefix, at least one and not all, all lengths equally likely.
``prefix_mask`` [B, S] marks it; labels are the next tokens from its last token on, so that no token
of the prefix is predicted.

Shapes: B batch, S block size.
"""

import numpy as np
import torch

from orchestrator.arrays import BoolArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs, block_batch, next_tokens
from orchestrator.data.samples.kinds import PrefixConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.packing import Packing, document_starts
from orchestrator.data.spec import PAD


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
        starts = document_starts(ids) if self._packing == "documents" else np.zeros_like(ids)
        luck = uniform(draw(self._seed, Purpose.PREFIX, epoch, indices, ids.shape[1])[0])
        sizes = _sizes(starts, ids != PAD)
        prefix = 1 + np.floor(luck[rows, starts] * (sizes - 1)).astype(np.int64)
        offset = places - starts
        labels = next_tokens(self._blocks, indices, ids)
        labels = np.where(offset >= prefix - 1, labels, IGNORED)
        batch = block_batch(ids, ids, {self._target: labels}, self._packing)
        shown = (offset < prefix) & (ids != PAD)
        return batch | {"prefix_mask": torch.from_numpy(shown.astype(np.int64))}


def _sizes(starts: IntArray, real: BoolArray) -> IntArray:
    """Return the length in real tokens of the text of each token, at least 1: int64 [B, S]."""
    counts = np.zeros_like(starts)
    np.add.at(counts, (np.arange(len(starts))[:, None], starts), real)
    found: IntArray = np.take_along_axis(counts, starts, axis=1)
    return np.maximum(found, 1)
