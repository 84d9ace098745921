"""Replaced token detection: some tokens are replaced, the model finds them.

Clark et al., "ELECTRA" (ICLR 2020), section 3: of the tokens 15 % are replaced; label 1 where a
token is not the original, 0 at every other ordinary token. A replacement that happens to be the
original counts as original.

Deviation: ELECTRA trains a small masked language model beside the discriminator and samples from
it. Here replacements are drawn by the frequency of tokens in the corpus ("unigram", the paper's
weakest generator), or with equal probability ("uniform"). They are easier to detect.

Shapes: B batch, S block size, V vocabulary.
"""

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs, block_batch, words_of
from orchestrator.data.samples.kinds import MaskingConfig, ReplacedConfig
from orchestrator.data.samples.masking import FIRST_WORD, IGNORED, mask_tokens
from orchestrator.data.samples.packing import Packing


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
        self._continues = processor.continues
        self._target = target_name
        self._seed = seed
        config = config or ReplacedConfig()
        self._rule = MaskingConfig(share=config.share)
        self._packing: Packing = packing
        self.parts = blocks.parts
        weights = np.ones(words_of(processor))
        if config.replacements == "unigram":
            weights = blocks.counts(len(processor.continues))[: len(weights)].astype(np.float64)
        weights[:FIRST_WORD] = 0.0
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
        _, answers = mask_tokens(ids, indices, epoch, self._seed, self._continues, self._rule)
        luck = uniform(draw(self._seed, Purpose.REPLACE, epoch, indices, ids.shape[1])[0])
        other = np.searchsorted(self._cumulative, luck, side="right")
        changed = np.where(answers != IGNORED, other, ids)
        labels = np.where(ids >= FIRST_WORD, (changed != ids).astype(np.int64), IGNORED)
        return block_batch(changed, ids, {self._target: labels}, self._packing)
