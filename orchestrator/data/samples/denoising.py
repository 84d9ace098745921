"""Denoising: the decoder restores a text with shuffled sentences and masked spans.

Lewis et al., "BART" (ACL 2020), section 2.2, with the settings of section 4.4: all sentences in
random order, then text infilling: spans of words, their lengths Poisson(3), until 30 % of the words
are covered; each span becomes one [MASK], also an empty span.

Deviation: BART's code draws where each span begins, so that spans may overlap and fewer words are
masked; here spans and the words that stay are put in a random order, which covers exactly 30 %.
If inserted masks make a text longer than a block, the source loses its last tokens.

The source is ``[CLS] text [SEP]``, the target the same with the original text; as in BART the
decoder begins with the end token.
"""

from math import ceil, exp

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose
from orchestrator.data.samples.base import SampleInputs
from orchestrator.data.samples.kinds import DenoisingConfig
from orchestrator.data.samples.passages import Passages
from orchestrator.data.samples.sequences import SequenceSamples
from orchestrator.data.spec import CLS, MASK, SEP

FRAME = 2  # [CLS] and [SEP]
TAIL = 64  # the Poisson distribution is truncated here


class DenoisingSamples(SequenceSamples):
    """Noisy texts; ``labels.<name>`` are the original texts."""

    start = SEP
    purpose = Purpose.SHUFFLE

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "lm",
        seed: int = 7,
        config: DenoisingConfig | None = None,
    ) -> None:
        self._config = config or DenoisingConfig()
        self._continues = processor.continues
        self._lengths = poisson(self._config.mean_span)
        super().__init__(Passages(blocks, blocks.block_size - FRAME), target_name, seed)
        self._limit = blocks.block_size
        self._draws = self._luck
        self._luck *= 2  # words that stay and spans are put in order together

    @classmethod
    def build(cls, config: DenoisingConfig, inputs: SampleInputs) -> "DenoisingSamples":
        """Build the samples of a split."""
        return cls(inputs.blocks, inputs.tokenizer, inputs.targets["lm"], inputs.seed, config)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the noisy text and the text."""
        text = np.concatenate(sentences)
        if self._config.shuffle:
            order = np.argsort(luck[0, : len(sentences)], kind="stable")
            sentences = [sentences[place] for place in order]
        noisy = self._fill(np.concatenate(sentences), luck[1:])[: self._limit - FRAME]
        ends = (np.asarray([CLS], dtype=np.int64), np.asarray([SEP], dtype=np.int64))
        source = np.concatenate([ends[0], noisy, ends[1]])
        return source, np.concatenate([ends[0], text, ends[1]])

    def _fill(self, tokens: IntArray, luck: FloatArray) -> IntArray:
        """Replace spans of words by [MASK]."""
        starts = ~self._continues[tokens]
        starts[0] = True
        words = np.split(tokens, np.flatnonzero(starts)[1:])
        spans = self._spans(ceil(len(words) * self._config.share), luck[0, : self._draws])
        covered = int(spans.sum())
        order = np.argsort(luck[1, : len(words) - covered + len(spans)], kind="stable")
        found: list[IntArray] = []
        here = 0
        for which in order:  # the first numbers are spans, the others words that stay
            if which < len(spans):
                found.append(np.asarray([MASK], dtype=np.int64))
                here += int(spans[which])
            else:
                found.append(words[here])
                here += 1
        return np.concatenate(found)

    def _spans(self, wanted: int, luck: FloatArray) -> IntArray:
        """Return lengths of spans that together cover ``wanted`` words; the last one is cut."""
        drawn = np.searchsorted(self._lengths, luck, side="right")
        total = np.cumsum(drawn)
        if wanted == 0:
            return drawn[:0]
        reached = int(np.searchsorted(total, wanted))
        if reached == len(total):  # only possible if the mean span is near 0
            return drawn[drawn > 0]
        spans = drawn[: reached + 1].copy()
        spans[-1] -= total[reached] - wanted
        return spans


def poisson(mean: float) -> FloatArray:
    """Return the probability that a Poisson variable is at most 0, 1, ..., float64 [TAIL]."""
    terms = [exp(-mean)]
    for number in range(1, TAIL):
        terms.append(terms[-1] * mean / number)
    found: FloatArray = np.cumsum(np.asarray(terms))
    found /= found[-1]
    return found
