"""Span corruption: removed spans are written by the decoder (T5).

Raffel et al., "Exploring the limits of transfer learning" (JMLR 2020), section 3.1.4, and
``random_spans_noise_mask`` of its code: 15 % of the tokens are noise, in spans of 3 tokens on
average. Noise and the rest are each cut into that many segments at random, and the segments take
turns, beginning with one that stays. In the source each span is replaced by its own sentinel; the
target is every sentinel followed by the span it replaces. Both end with [SEP].

"Thank you <X> me to your party <Y> week [SEP]" → "<X> for inviting <Y> last [SEP]"

Deviation: T5 joins documents to sequences of equal length; here a sequence comes from one document.
"""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.subwords import sentinel_ids
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose
from orchestrator.data.samples.base import SampleInputs
from orchestrator.data.samples.kinds import SpansConfig
from orchestrator.data.samples.passages import Passages
from orchestrator.data.samples.sequences import SequenceSamples
from orchestrator.data.spec import SEP
from orchestrator.errors import InputError


class SpanCorruptionSamples(SequenceSamples):
    """Passages with removed spans; ``labels.<name>`` are the spans behind their sentinels."""

    purpose = Purpose.SPAN

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "lm",
        seed: int = 7,
        config: SpansConfig | None = None,
    ) -> None:
        """Lay out the samples.

        Raises:
            InputError: The tokenizer has fewer sentinels than a sequence needs.
        """
        self._rule = config or SpansConfig()
        room = self._rule.room(blocks.block_size)
        self._sentinels = np.asarray(sentinel_ids(processor.tokenizer), dtype=np.int64)
        _, needed = self._rule.sizes(room)
        if len(self._sentinels) < needed:
            raise InputError(
                f"the tokenizer has {len(self._sentinels)} sentinels, blocks of "
                f"{blocks.block_size} tokens need {needed}. Set data.tokenizer.sentinels (T5: 100)."
            )
        super().__init__(Passages(blocks, room), target_name, seed)

    @classmethod
    def build(cls, config: SpansConfig, inputs: SampleInputs) -> "SpanCorruptionSamples":
        """Build the samples of a split."""
        return cls(inputs.blocks, inputs.tokenizer, inputs.targets["lm"], inputs.seed, config)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the source with sentinels, and the target with the spans."""
        tokens = np.concatenate(sentences)
        noise, spans = self._rule.sizes(len(tokens))
        if len(tokens) == noise:
            stays = np.zeros(1, dtype=np.int64)
        else:
            stays = segments(len(tokens) - noise, spans, luck[0])
        removed = segments(noise, spans, luck[1])
        return corrupt(tokens, stays, removed, self._sentinels)


def segments(total: int, count: int, luck: FloatArray) -> IntArray:
    """Cut ``total`` tokens into ``count`` segments of one token or more, all ways equally likely.

    Args:
        total: Number of tokens.
        count: Number of segments, at most ``total``.
        luck: Uniform numbers, at least ``total - 1``.

    Returns:
        Number of tokens of each segment, int64 [count].
    """
    borders = 1 + np.sort(np.argsort(luck[: total - 1], kind="stable")[: count - 1])
    return np.diff(np.concatenate([[0], borders, [total]])).astype(np.int64)


def corrupt(
    tokens: IntArray, stays: IntArray, removed: IntArray, sentinels: IntArray
) -> tuple[IntArray, IntArray]:
    """Replace spans by sentinels.

    Args:
        tokens: The sequence.
        stays: Number of tokens before each span, int64 [spans].
        removed: Number of tokens of each span, int64 [spans].
        sentinels: Ids of the sentinels, in the order in which they are used.

    Returns:
        Source and target, both with [SEP] at the end.
    """
    source: list[IntArray] = []
    target: list[IntArray] = []
    begin = 0
    for number, (stay, gone) in enumerate(zip(stays, removed, strict=True)):
        sentinel = sentinels[number : number + 1]
        source += [tokens[begin : begin + stay], sentinel]
        target += [sentinel, tokens[begin + stay : begin + stay + gone]]
        begin += stay + gone
    end = np.asarray([SEP], dtype=np.int64)
    return np.concatenate([*source, tokens[begin:], end]), np.concatenate([*target, end])
