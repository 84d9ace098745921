"""Samples for models with an encoder and a decoder: span corruption, denoising, gap sentences.

A batch has ``input_ids``, ``attention_mask`` [B, S], ``decoder_input_ids``,
``decoder_attention_mask`` and ``labels.<name>`` [B, T]. The decoder reads what it has written so
far: its input is a start token and then the labels, one position later; the label of a position is
the token to write there. Both masks follow the sequences as they are after the change, so nothing
attends to padding that shortening left behind.

Shapes: B batch, S source length, T target length, both the longest of the batch.
"""

from abc import ABC, abstractmethod
from collections import Counter
from math import ceil, exp

import numpy as np
import torch

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.roles import Roles
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs, stack
from orchestrator.data.samples.kinds import DenoisingConfig, GapsConfig, SpansConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.passages import Passages
from orchestrator.errors import InputError

TAIL = 64  # the Poisson distribution is truncated here


class SequenceSamples(ABC):
    """Passages, each made into a source and a target.

    Attributes:
        parts: Number of samples from each source.
    """

    purpose: Purpose
    """Purpose of the random numbers."""

    def __init__(
        self, passages: Passages, target_name: str, seed: int, roles: Roles, start: int
    ) -> None:
        """Take passages with their special tokens, and the token that the decoder begins with."""
        self._passages = passages
        self._pad, self._start = roles.filler, start
        self._end = np.asarray([roles.ending], dtype=np.int64)
        self._target = target_name
        self._seed = seed
        self._luck = passages.room + 2
        self.parts = passages.parts

    def __len__(self) -> int:
        return len(self._passages)

    @abstractmethod
    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return source and target of a passage.

        Args:
            sentences: Tokens of each sentence.
            luck: Uniform numbers in [0, 1), [4, positions]; there are more positions than tokens.
        """

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch."""
        luck = uniform(np.stack(draw(self._seed, self.purpose, epoch, indices, self._luck)))
        made = [
            self.make(self._passages.sentences(int(index)), luck[:, row])
            for row, index in enumerate(indices)
        ]
        sources, targets = zip(*made, strict=True)
        inputs = [np.concatenate([[self._start], target[:-1]]) for target in targets]
        arrays = {
            "input_ids": stack(sources, self._pad),
            "attention_mask": stack([np.ones_like(each) for each in sources], 0),
            "decoder_input_ids": stack(inputs, self._pad),
            "decoder_attention_mask": stack([np.ones_like(each) for each in targets], 0),
            f"labels.{self._target}": stack(targets, IGNORED),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class SpanCorruptionSamples(SequenceSamples):
    """Passages with removed spans; ``labels.<name>`` are the spans behind their sentinels.

    Raffel et al., "T5" (JMLR 2020), section 3.1.4, and ``random_spans_noise_mask`` of its code:
    15 % of the tokens are noise, in spans of 3 tokens on average. Noise and the rest are each cut
    into that many segments at random, and the segments take turns, beginning with one that stays.
    In the source each span is replaced by its own sentinel; the target is every sentinel followed
    by the span it replaces. Both end with the end token; the decoder begins with padding.

    "Thank you <X> me to your party <Y> week </s>" → "<X> for inviting <Y> last </s>"

    Deviation: T5 joins documents to sequences of equal length; here a sequence comes from one
    document.
    """

    purpose = Purpose.SPAN

    def __init__(
        self,
        blocks: TokenBlocks,
        target_name: str = "lm",
        seed: int = 7,
        config: SpansConfig | None = None,
    ) -> None:
        """Lay out the samples.

        Raises:
            InputError: The tokenizer has fewer sentinels than a sequence needs, or no padding.
        """
        roles, use = blocks.roles, "span corruption"
        self._rule = config or SpansConfig()
        room = self._rule.room(blocks.block_size)
        self._sentinels = np.asarray(roles.sentinels, dtype=np.int64)
        _, needed = self._rule.sizes(room)
        if len(self._sentinels) < needed:
            raise InputError(
                f"the tokenizer has {len(self._sentinels)} sentinels, blocks of "
                f"{blocks.block_size} tokens need {needed}. Set data.tokenizer.sentinels (T5: "
                "100), or name a tokenizer with more of <extra_id_0>, <extra_id_1>, ..."
            )
        start = roles.require("pad", use)
        super().__init__(Passages(blocks, room), target_name, seed, roles, start)

    @classmethod
    def build(cls, config: SpansConfig, inputs: SampleInputs) -> "SpanCorruptionSamples":
        """Build the samples of a split."""
        return cls(inputs.blocks, inputs.targets["lm"], inputs.seed, config)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the source with sentinels, and the target with the spans."""
        tokens = np.concatenate(sentences)
        noise, spans = self._rule.sizes(len(tokens))
        if len(tokens) == noise:
            stays = np.zeros(1, dtype=np.int64)
        else:
            stays = segments(len(tokens) - noise, spans, luck[0])
        removed = segments(noise, spans, luck[1])
        return corrupt(tokens, stays, removed, self._sentinels, self._end)


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
    tokens: IntArray, stays: IntArray, removed: IntArray, sentinels: IntArray, end: IntArray
) -> tuple[IntArray, IntArray]:
    """Replace spans by sentinels.

    Args:
        tokens: The sequence.
        stays: Number of tokens before each span, int64 [spans].
        removed: Number of tokens of each span, int64 [spans].
        sentinels: Ids of the sentinels, in the order in which they are used.
        end: Token that ends a text, int64 [1].

    Returns:
        Source and target, both with ``end`` behind them.
    """
    source: list[IntArray] = []
    target: list[IntArray] = []
    begin = 0
    for number, (stay, gone) in enumerate(zip(stays, removed, strict=True)):
        sentinel = sentinels[number : number + 1]
        source += [tokens[begin : begin + stay], sentinel]
        target += [sentinel, tokens[begin + stay : begin + stay + gone]]
        begin += stay + gone
    return np.concatenate([*source, tokens[begin:], end]), np.concatenate([*target, end])


class DenoisingSamples(SequenceSamples):
    """Texts with shuffled sentences and masked spans; ``labels.<name>`` are the original texts.

    Lewis et al., "BART" (ACL 2020), section 2.2, with the settings of section 4.4: all sentences in
    random order, then text infilling: spans of words, their lengths Poisson(3), until 30 % of the
    words are covered; each span becomes one mask token, also an empty span. Both sequences are
    framed as a text (``<s> text </s>``); the decoder begins with the end token.

    Deviation: BART's code draws where each span begins, so that spans may overlap and fewer words
    are masked; here spans and the words that stay are put in a random order, which covers exactly
    30 %. If inserted masks make a text longer than a block, the source loses its last tokens.
    """

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
        roles = blocks.roles
        self._mask = np.asarray([roles.require("mask", "denoising")], dtype=np.int64)
        ends = (roles.begin, roles.end or (roles.ending,))
        self._ends = [np.asarray(each, dtype=np.int64) for each in ends]
        self._limit = blocks.block_size - sum(map(len, ends))
        super().__init__(Passages(blocks, self._limit), target_name, seed, roles, roles.ending)
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
        noisy = self._fill(np.concatenate(sentences), luck[1:])[: self._limit]
        begin, end = self._ends
        return np.concatenate([begin, noisy, end]), np.concatenate([begin, text, end])

    def _fill(self, tokens: IntArray, luck: FloatArray) -> IntArray:
        """Replace spans of words by the mask token."""
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
                found.append(self._mask)
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


class GapSentenceSamples(SequenceSamples):
    """Texts with gaps; ``labels.<name>`` are the removed sentences.

    Zhang et al., "PEGASUS" (ICML 2020), section 3.1: of a text 30 % of the sentences are replaced
    by one mask token each; the target is these sentences in their order. The selection is the first
    sentences ("lead"), random ones ("random"), or those most similar to the rest of the text
    ("principal"): each sentence is scored by its ROUGE-1 F1 against all others, repeated words
    counted ("Ind-Orig", equation 1).

    Deviations: ROUGE counts tokens and does not stem; a text of one sentence is cut in half,
    because nothing would be left for the encoder.
    """

    purpose = Purpose.GAP

    def __init__(
        self,
        blocks: TokenBlocks,
        target_name: str = "lm",
        seed: int = 7,
        config: GapsConfig | None = None,
    ) -> None:
        self._config = config or GapsConfig()
        roles, use = blocks.roles, "gaps for sentences"
        self._mask = np.asarray([roles.require("sentence_mask", use)], dtype=np.int64)
        start = roles.require("pad", use)
        super().__init__(Passages(blocks, blocks.block_size - 1), target_name, seed, roles, start)

    @classmethod
    def build(cls, config: GapsConfig, inputs: SampleInputs) -> "GapSentenceSamples":
        """Build the samples of a split."""
        return cls(inputs.blocks, inputs.targets["lm"], inputs.seed, config)

    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return the text with gaps and the removed sentences; a single token has no label."""
        if len(sentences) == 1:
            sentences = np.array_split(sentences[0], 2)
            if not len(sentences[1]):
                return np.append(sentences[0], self._end), np.asarray([IGNORED], dtype=np.int64)
        gaps = self._choose(sentences, luck[0])
        source = [self._mask if number in gaps else text for number, text in enumerate(sentences)]
        target = [sentences[number] for number in sorted(gaps)]
        return np.concatenate([*source, self._end]), np.concatenate([*target, self._end])

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
