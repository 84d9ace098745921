"""Gap sentences: the decoder writes the sentences that were removed from a text.

Zhang et al., "PEGASUS" (ICML 2020), section 3.1: of a text 30 % of the sentences are replaced by
one [MASK] each; the target is these sentences in their order. The selection is the first sentences
("lead"), random ones ("random"), or those most similar to the rest of the text ("principal"): each
sentence is scored by its ROUGE-1 F1 against all others, repeated words counted ("Ind-Orig",
equation 1).

Deviations: ROUGE counts tokens and does not stem; a text of one sentence is cut in half, because
nothing would be left for the encoder.
"""

from collections import Counter

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.randomness import Purpose
from orchestrator.data.samples.base import SampleInputs
from orchestrator.data.samples.kinds import GapsConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.passages import Passages
from orchestrator.data.samples.sequences import SequenceSamples
from orchestrator.data.spec import MASK, SEP


class GapSentenceSamples(SequenceSamples):
    """Texts with gaps; ``labels.<name>`` are the removed sentences."""

    purpose = Purpose.GAP

    def __init__(
        self,
        blocks: TokenBlocks,
        target_name: str = "lm",
        seed: int = 7,
        config: GapsConfig | None = None,
    ) -> None:
        self._config = config or GapsConfig()
        super().__init__(Passages(blocks, blocks.block_size - 1), target_name, seed)

    @classmethod
    def build(cls, config: GapsConfig, inputs: SampleInputs) -> "GapSentenceSamples":
        """Build the samples of a split."""
        return cls(inputs.blocks, inputs.targets["lm"], inputs.seed, config)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the text with gaps and the removed sentences; a single token has no label."""
        end = np.asarray([SEP], dtype=np.int64)
        if len(sentences) == 1:
            sentences = np.array_split(sentences[0], 2)
            if not len(sentences[1]):
                return np.append(sentences[0], SEP), np.asarray([IGNORED], dtype=np.int64)
        gaps = self._choose(sentences, luck[0])
        mask = np.asarray([MASK], dtype=np.int64)
        source = [mask if number in gaps else text for number, text in enumerate(sentences)]
        target = [sentences[number] for number in sorted(gaps)]
        return np.concatenate([*source, end]), np.concatenate([*target, end])

    def _choose(self, sentences: list[IntArray], luck: FloatArray) -> set[int]:
        count = min(max(1, round(len(sentences) * self._config.share)), len(sentences) - 1)
        rule = self._config.selection
        if rule == "lead":
            return set(range(count))
        score = luck[: len(sentences)] if rule == "random" else -overlap(sentences)
        return set(np.argsort(score, kind="stable")[:count].tolist())


def overlap(sentences: list[IntArray]) -> FloatArray:
    """Return ROUGE-1 F1 of each sentence against all others together, float64 [sentences]."""
    bags = [Counter(sentence.tolist()) for sentence in sentences]
    whole = sum(bags, Counter())
    total = whole.total()
    scores = []
    for bag in bags:
        rest = total - bag.total()
        common = sum(min(n, whole[token] - n) for token, n in bag.items())
        scores.append(2 * common / (bag.total() + rest))
    return np.asarray(scores, dtype=np.float64)
