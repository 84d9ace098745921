"""Gap sentences: the decoder writes the sentences that were taken out of a text.

Zhang et al., "PEGASUS" (ICML 2020), section 3.1: of a text 30 % of the sentences are replaced by
[MASK] each; the target is these sentences one after the other. Which ones: the first ("lead"),
random ones ("random"), or those most like the rest of the text ("principal"): each sentence is
scored for itself by the F1 of ROUGE-1 against all others, words counted as often as they occur
("Ind-Orig", equation 1).

Deviations: ROUGE counts tokens and does not stem; a text of one sentence is cut in half, because
nothing would be left to read.
"""

from collections import Counter
from typing import Literal

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.passages import Passages
from orchestrator.data.samples.sequences import SequenceSamples
from orchestrator.data.spec import MASK, SEP

Selection = Literal["principal", "lead", "random"]

SHARE = 0.3


class GapSentenceSamples(SequenceSamples):
    """Texts with gaps; ``labels.<name>`` are the sentences that are missing."""

    purpose = Purpose.GAP

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "lm",
        seed: int = 7,
        share: float = SHARE,
        selection: Selection = "principal",
    ) -> None:
        del processor
        self._share, self._selection = share, selection
        super().__init__(Passages(blocks, blocks.block_size - 1), target_name, seed)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the text with gaps and what is missing; nothing is asked of a single token."""
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
        count = min(max(1, round(len(sentences) * self._share)), len(sentences) - 1)
        if self._selection == "lead":
            return set(range(count))
        score = luck[: len(sentences)] if self._selection == "random" else -overlap(sentences)
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
