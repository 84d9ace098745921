"""Masked language modelling: the choice of masked tokens, and their replacement.

Devlin et al., "BERT" (NAACL 2019), section 3.1 and appendix A.1: 15 % of the tokens are chosen; of
those 80 % become the mask token, 10 % a random token, 10 % stay. As in BERT's code, the number of
chosen tokens of a sequence is fixed (the rounded share, at least one) instead of tossing a coin for
every token. Special tokens are never chosen, and neither they nor added ones are used as random
tokens. With whole words, the last word may exceed the share; a word is a token and those that
continue it, or what a segmenter finds (Cui et al., "Pre-Training with Whole Word Masking for
Chinese BERT", TASLP 2021: words of Chinese).

Spans: Joshi et al., "SpanBERT" (TACL 2020), section 3.1. Until the share is reached, a length is
drawn from a geometric distribution (p = 0.2, at most 10, mean 3.8 words) and a random word to begin
at. The tokens of one span share one fate. Deviations: the first word is drawn among words that are
not chosen yet instead of drawing until one is found (the same distribution, but the number of draws
is bounded); a span stops at a special token; the last span is cut so that the number of chosen
tokens is exactly the share.

Masks are new in every epoch ("dynamic", RoBERTa) unless ``copies`` limits their number per sample;
epoch e then has copy e mod ``copies`` ("static", BERT: 10).

Shapes: B batch, S length, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import BoolArray, FloatArray, IntArray
from orchestrator.data.processors.roles import Roles
from orchestrator.data.processors.segmenters import NoSegmenterConfig, build_segmenter
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.words import WordFinder
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.kinds import MaskingConfig
from orchestrator.errors import InputError

IGNORED = -100  # label of a position that is not predicted
SUCCESS = 0.2  # p of the geometric distribution
MAX_WORDS = 10  # per span
_WEIGHTS = SUCCESS * (1 - SUCCESS) ** np.arange(MAX_WORDS)
CUMULATIVE = np.cumsum(_WEIGHTS) / _WEIGHTS.sum()
"""Probability that a span has at most 1, 2, ..., MAX_WORDS words."""


@dataclass(frozen=True, eq=False, slots=True)
class Vocabulary:
    """The ids of a tokenizer as masking sees them.

    Attributes:
        continues: Whether a token continues the word before it, bool [V].
        ordinary: Whether a token may be chosen, bool [V].
        drawable: Ids that may replace a token, int64.
        mask: Id that hides a token; None: the tokenizer has none.
        words: Finds where words begin, in place of ``continues``; None: the tokenizer marks them.
    """

    continues: BoolArray
    ordinary: BoolArray
    drawable: IntArray
    mask: int | None
    words: WordFinder | None = None

    @classmethod
    def of(
        cls, continues: BoolArray, roles: Roles, words: WordFinder | None = None
    ) -> "Vocabulary":
        """Return the vocabulary of a tokenizer.

        Raises:
            InputError: It has nothing but special and added tokens.
        """
        size = len(continues)
        drawable = roles.drawable(size)
        if not len(drawable):
            raise InputError("this tokenizer has no tokens but special and added ones.")
        return cls(continues, roles.ordinary(size), drawable, roles.mask, words)

    @classmethod
    def for_rule(cls, processor: TextProcessor, roles: Roles, rule: MaskingConfig) -> "Vocabulary":
        """Return the vocabulary of a tokenizer whose tokens are masked by a rule.

        Raises:
            InputError: It has nothing but special and added tokens, or the library of the segmenter
                is not installed.
        """
        if isinstance(rule.segmenter, NoSegmenterConfig):
            return cls.of(processor.continues, roles)
        words = WordFinder(processor, build_segmenter(rule.segmenter))
        return cls.of(processor.continues, roles, words)


def choose_spans(
    place: FloatArray, length: FloatArray, ordinary: BoolArray, starts: BoolArray, count: IntArray
) -> tuple[BoolArray, IntArray]:
    """Choose spans until ``count`` tokens of each sequence are chosen.

    Args:
        place: Uniform numbers; the k-th places the k-th span of a sequence, [B, S].
        length: Uniform numbers; the k-th sets the length of the k-th span, [B, S].
        ordinary: Tokens that may be chosen, [B, S].
        starts: Where a word begins, [B, S].
        count: Number of tokens to choose, [B].

    Returns:
        Chosen tokens, bool [B, S], and the number of the span of each, int64 [B, S].
    """
    chosen = np.zeros_like(ordinary)
    span = np.zeros(ordinary.shape, dtype=np.int64)
    words = 1 + np.searchsorted(CUMULATIVE, length, side="right").clip(max=MAX_WORDS - 1)
    for row in range(len(ordinary)):
        heads = np.flatnonzero(starts[row] & ordinary[row])
        missing, number = int(count[row]), 0
        while missing > 0:
            free = heads[~chosen[row, heads]]
            begin = int(free[int(place[row, number] * len(free))])
            end = _end(begin, int(words[row, number]), starts[row], ordinary[row])
            new = begin + np.flatnonzero(~chosen[row, begin:end])[:missing]
            chosen[row, new], span[row, new] = True, number
            missing -= len(new)
            number += 1
    return chosen, span


def _end(begin: int, words: int, starts: BoolArray, ordinary: BoolArray) -> int:
    """Return the end of a span of ``words`` words, at most the next special token."""
    stops = np.flatnonzero(~ordinary[begin:])
    limit = begin + int(stops[0]) if len(stops) else len(ordinary)
    after = begin + 1 + np.flatnonzero(starts[begin + 1 : limit])
    return int(after[words - 1]) if len(after) >= words else limit


def mask_tokens(
    ids: IntArray,
    samples: IntArray,
    epoch: int | IntArray,
    seed: int,
    vocabulary: Vocabulary,
    rule: MaskingConfig,
) -> tuple[IntArray, IntArray]:
    """Mask a batch; every choice depends on (seed, epoch, sample, position) alone.

    Args:
        ids: Tokens, int64 [B, S].
        samples: Index of each sample in the data set [B].
        epoch: Epoch of all samples, or one per sample [B].
        seed: seed of the job.
        vocabulary: The tokenizer's ids. Without a mask token, nothing is hidden: all that would
            be stays.
        rule: Shares and units.

    Returns:
        Masked ids and labels, int64 [B, S]; labels are -100 where nothing is predicted.
    """
    epoch = epoch if rule.copies is None else epoch % rule.copies
    place, fate, token, length = draw(seed, Purpose.MASK, epoch, samples, ids.shape[1])
    ordinary = vocabulary.ordinary[ids]
    luck = uniform(fate)
    if rule.units == "spans":
        starts = _word_starts(ids, vocabulary)
        count = budget(ordinary, rule.share)
        chosen, span = choose_spans(uniform(place), uniform(length), ordinary, starts, count)
        luck = np.take_along_axis(luck, span, axis=1)  # one fate per span
    else:
        whole = rule.units == "words"
        starts = _word_starts(ids, vocabulary) if whole else np.ones_like(ordinary)
        chosen = _choose(uniform(place), ordinary, starts, rule.share)
    masked = ids.copy()
    if vocabulary.mask is not None:
        masked[chosen & (luck < rule.hidden)] = vocabulary.mask
    size = np.uint64(len(vocabulary.drawable))
    replacement = vocabulary.drawable[token.astype(np.uint64) * size >> np.uint64(32)]
    swapped = chosen & (luck >= rule.hidden) & (luck < rule.hidden + rule.random)
    masked[swapped] = replacement[swapped]
    return masked, np.where(chosen, ids, IGNORED)


def _word_starts(ids: IntArray, vocabulary: Vocabulary) -> BoolArray:
    """Mark the first token of each word; a block or a special token begins a new word."""
    starts = ~vocabulary.continues[ids] if vocabulary.words is None else vocabulary.words(ids)
    starts[:, 0] = True
    starts[:, 1:] |= ~vocabulary.ordinary[ids[:, :-1]]
    return starts


def _choose(
    score: npt.NDArray[np.float64], ordinary: BoolArray, starts: BoolArray, share: float
) -> BoolArray:
    """Choose the words with the lowest scores until the share of tokens is reached."""
    B, S = ordinary.shape
    rows = np.arange(B)[:, None]
    first = np.maximum.accumulate(np.where(starts, np.arange(S), 0), axis=1)
    word_score = np.where(ordinary, score[rows, first], 2.0)
    order = np.argsort(word_score, axis=1, kind="stable")
    ranks = np.empty_like(order)
    ranks[rows, order] = np.arange(S)
    return (ranks[rows, first] < budget(ordinary, share)[:, None]) & ordinary


def budget(ordinary: BoolArray, share: float) -> IntArray:
    """Return the number of chosen tokens per sequence: its share, at least one, int64 [B]."""
    count = ordinary.sum(axis=1)
    return np.where(count > 0, np.maximum(1, np.rint(count * share)), 0).astype(np.int64)
