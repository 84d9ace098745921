"""Span corruption: removed spans are written by the decoder (T5).

Raffel et al., "Exploring the limits of transfer learning" (JMLR 2020), section 3.1.4, and
``random_spans_noise_mask`` of its code: 15 % of the tokens are noise, in spans of 3 tokens on
average. Noise and the rest are each cut into that many segments at random, and the segments take
turns, beginning with one that stays. In the source each span is replaced by a sentinel of its own;
the target is every sentinel followed by what it stands for. Both end with [SEP].

"Thank you <X> me to your party <Y> week [SEP]" → "<X> for inviting <Y> last [SEP]"

Deviation: T5 joins documents to sequences of equal length; here a sequence is of one document.
"""

from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.subwords import sentinel_ids
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose
from orchestrator.data.samples.passages import Passages
from orchestrator.data.samples.sequences import SequenceSamples
from orchestrator.data.spec import SEP
from orchestrator.errors import InputError


@dataclass(frozen=True, slots=True)
class Corruption:
    """How much is removed.

    Attributes:
        share: of the tokens that are removed.
        mean_span: average number of tokens of a span.
    """

    share: float = 0.15
    mean_span: float = 3.0

    def sizes(self, length: int) -> tuple[int, int]:
        """Return the number of removed tokens and of spans in a sequence."""
        if length == 1:
            return 1, 1
        noise = min(max(round(length * self.share), 1), length - 1)
        spans = min(max(round(noise / self.mean_span), 1), length - noise)
        return noise, spans

    def source_length(self, length: int) -> int:
        """Return the length of the source that a sequence leaves, [SEP] included."""
        noise, spans = self.sizes(length)
        return length - noise + spans + 1

    def target_length(self, length: int) -> int:
        """Return the length of the target that a sequence makes, [SEP] included."""
        noise, spans = self.sizes(length)
        return noise + spans + 1

    def room(self, block_size: int) -> int:
        """Return the longest sequence whose source and target both fit into a block."""
        length = block_size
        while max(self.source_length(length), self.target_length(length)) > block_size:
            length -= 1
        while max(self.source_length(length + 1), self.target_length(length + 1)) <= block_size:
            length += 1
        return length


class SpanCorruptionSamples(SequenceSamples):
    """Passages with removed spans; ``labels.<name>`` are the spans behind their sentinels."""

    purpose = Purpose.SPAN

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        target_name: str = "lm",
        seed: int = 7,
        corruption: Corruption | None = None,
    ) -> None:
        """Lay out the samples.

        Raises:
            InputError: the tokenizer has fewer sentinels than a sequence needs.
        """
        self._rule = corruption or Corruption()
        room = self._rule.room(blocks.block_size)
        self._sentinels = np.asarray(sentinel_ids(processor.tokenizer), dtype=np.int64)
        _, needed = self._rule.sizes(room)
        if len(self._sentinels) < needed:
            raise InputError(
                f"the tokenizer has {len(self._sentinels)} sentinels, blocks of "
                f"{blocks.block_size} tokens need {needed}. Set data.tokenizer.sentinels (T5: 100)."
            )
        super().__init__(Passages(blocks, room), target_name, seed)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the source with sentinels, and what they stand for."""
        tokens = np.concatenate(sentences)
        noise, spans = self._rule.sizes(len(tokens))
        if len(tokens) == noise:
            kept = np.zeros(1, dtype=np.int64)
        else:
            kept = segments(len(tokens) - noise, spans, luck[0])
        removed = segments(noise, spans, luck[1])
        return corrupt(tokens, kept, removed, self._sentinels)


def segments(total: int, count: int, luck: FloatArray) -> IntArray:
    """Cut ``total`` tokens into ``count`` segments of one token or more, all ways equally likely.

    Args:
        total: number of tokens.
        count: number of segments, at most ``total``.
        luck: uniform numbers, at least ``total - 1``.

    Returns:
        Number of tokens of each segment, int64 [count].
    """
    borders = 1 + np.sort(np.argsort(luck[: total - 1], kind="stable")[: count - 1])
    return np.diff(np.concatenate([[0], borders, [total]])).astype(np.int64)


def corrupt(
    tokens: IntArray, kept: IntArray, removed: IntArray, sentinels: IntArray
) -> tuple[IntArray, IntArray]:
    """Replace spans by sentinels.

    Args:
        tokens: the sequence.
        kept: number of tokens before each span, int64 [spans].
        removed: number of tokens of each span, int64 [spans].
        sentinels: ids of the sentinels, in the order in which they are used.

    Returns:
        Source and target, both with [SEP] at the end.
    """
    source: list[IntArray] = []
    target: list[IntArray] = []
    begin = 0
    for number, (stay, gone) in enumerate(zip(kept, removed, strict=True)):
        sentinel = sentinels[number : number + 1]
        source += [tokens[begin : begin + stay], sentinel]
        target += [sentinel, tokens[begin + stay : begin + stay + gone]]
        begin += stay + gone
    end = np.asarray([SEP], dtype=np.int64)
    return np.concatenate([*source, tokens[begin:], end]), np.concatenate([*target, end])
