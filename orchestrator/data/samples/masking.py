"""Masked language modelling: which tokens are hidden, and by what.

Devlin et al., "BERT" (NAACL 2019), section 3.1 and appendix A.1: 15 % of the tokens are chosen; of
those 80 % become [MASK], 10 % a random token, 10 % stay. As in BERT's code, the number chosen is
fixed for a sequence (the rounded share, at least one) instead of tossing a coin for every token.
Special tokens are never chosen and never used as random tokens.

Whole words are what the tokenizer says: a word is a token and those that continue it. Spans are
those of SpanBERT (see ``span_masking``): the tokens of one span share one fate.

Masks are new in every epoch ("dynamic", RoBERTa) unless ``copies`` says how many there are of each
sample; epoch e then has copy e mod ``copies`` ("static", BERT: 10).

Shapes: B batch, S length, V vocabulary.

Which runs of words are hidden together.

Joshi et al., "SpanBERT" (TACL 2020), section 3.1: until the share is reached, a length is drawn
from a geometric distribution (p = 0.2, at most 10, mean 3.8 words) and a random word to begin at.

Deviations: the begin is drawn among words that are not hidden yet instead of drawing until one is
found (the same distribution, but the number of draws is bounded), and a span stops at a special
token. The last span is cut so that the number of hidden tokens is exactly the share.

Shapes: B batch, S length.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import BoolArray, FloatArray, IntArray
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.spec import MASK, SPECIAL_TOKENS

SUCCESS = 0.2  # p of the geometric distribution
LONGEST = 10  # words of a span
_WEIGHTS = SUCCESS * (1 - SUCCESS) ** np.arange(LONGEST)
CUMULATIVE = np.cumsum(_WEIGHTS) / _WEIGHTS.sum()
"""Probability that a span has at most 1, 2, ..., LONGEST words."""


def choose_spans(
    place: FloatArray, length: FloatArray, ordinary: BoolArray, starts: BoolArray, count: IntArray
) -> tuple[BoolArray, IntArray]:
    """Choose spans until ``count`` tokens of each sequence are chosen.

    Args:
        place: uniform numbers, the k-th decides where the k-th span of a sequence begins, [B, S].
        length: uniform numbers, the k-th decides how long it is, [B, S].
        ordinary: tokens that may be chosen, [B, S].
        starts: where a word begins, [B, S].
        count: number of tokens to choose, [B].

    Returns:
        Which tokens are chosen, bool [B, S], and the number of the span of each, int64 [B, S].
    """
    chosen = np.zeros_like(ordinary)
    span = np.zeros(ordinary.shape, dtype=np.int64)
    words = 1 + np.searchsorted(CUMULATIVE, length, side="right").clip(max=LONGEST - 1)
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
    """Return where a span of that many words ends: before a special token at the latest."""
    stops = np.flatnonzero(~ordinary[begin:])
    limit = begin + int(stops[0]) if len(stops) else len(ordinary)
    after = begin + 1 + np.flatnonzero(starts[begin + 1 : limit])
    return int(after[words - 1]) if len(after) >= words else limit


IGNORED = -100  # label of a position that is not predicted
FIRST_WORD = len(SPECIAL_TOKENS)


@dataclass(frozen=True, slots=True)
class Masking:
    """Shares of the masking rule.

    Attributes:
        share: of the ordinary tokens that are chosen.
        hidden: of the chosen ones that become [MASK].
        random: of the chosen ones that become a random token; the others stay.
        whole_words: choose words instead of tokens; the last word may exceed the share.
        spans: choose runs of words.
        copies: number of masks of a sample; None: a new one in every epoch.
    """

    share: float = 0.15
    hidden: float = 0.8
    random: float = 0.1
    whole_words: bool = False
    spans: bool = False
    copies: int | None = None


def mask_tokens(
    ids: IntArray,
    samples: IntArray,
    epoch: int | IntArray,
    seed: int,
    continues: BoolArray,
    rule: Masking,
    words: int | None = None,
) -> tuple[IntArray, IntArray]:
    """Mask a batch; every choice depends on (seed, epoch, sample, position) alone.

    Args:
        ids: tokens, int64 [B, S].
        samples: index of each sample in the data set [B].
        epoch: epoch of all samples, or one per sample [B].
        seed: seed of the job.
        continues: whether a token continues the word before it, bool [V].
        rule: the shares.
        words: number of ids that random tokens are taken from, the special ones included; None
            takes all.

    Returns:
        Masked ids and labels, int64 [B, S]; labels are -100 where nothing is predicted.
    """
    epoch = epoch if rule.copies is None else epoch % rule.copies
    place, fate, token, length = draw(seed, Purpose.MASK, epoch, samples, ids.shape[1])
    ordinary = ids >= FIRST_WORD
    luck = uniform(fate)
    if rule.spans:
        starts = _word_starts(ids, continues)
        count = budget(ordinary, rule.share)
        chosen, span = choose_spans(uniform(place), uniform(length), ordinary, starts, count)
        luck = np.take_along_axis(luck, span, axis=1)  # one fate a span
    else:
        starts = _word_starts(ids, continues) if rule.whole_words else np.ones_like(ordinary)
        chosen = _choose(uniform(place), ordinary, starts, rule.share)
    masked = ids.copy()
    masked[chosen & (luck < rule.hidden)] = MASK
    size = (words or len(continues)) - FIRST_WORD
    replacement = FIRST_WORD + (token.astype(np.uint64) * np.uint64(size) >> np.uint64(32))
    swapped = chosen & (luck >= rule.hidden) & (luck < rule.hidden + rule.random)
    masked[swapped] = replacement[swapped]
    return masked, np.where(chosen, ids, IGNORED)


def _word_starts(ids: IntArray, continues: BoolArray) -> BoolArray:
    """Tell where a word begins; the first token of a block and one after a special token do."""
    starts = ~continues[ids]
    starts[:, 0] = True
    starts[:, 1:] |= ids[:, :-1] < FIRST_WORD
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
    """Return how many tokens of each sequence are chosen: its share, at least one, int64 [B]."""
    count = ordinary.sum(axis=1)
    return np.where(count > 0, np.maximum(1, np.rint(count * share)), 0).astype(np.int64)
