"""Masked language modelling: which tokens are hidden, and by what.

Devlin et al., "BERT" (NAACL 2019), section 3.1 and appendix A.1: 15 % of the tokens are chosen; of
those 80 % become [MASK], 10 % a random token, 10 % stay. As in BERT's code, the number chosen is
fixed for a sequence (the rounded share, at least one) instead of tossing a coin for every token.
Special tokens are never chosen and never used as random tokens.

Shapes: B batch, S length, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.spec import MASK, SPECIAL_TOKENS

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

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
    """

    share: float = 0.15
    hidden: float = 0.8
    random: float = 0.1
    whole_words: bool = False


def mask_tokens(
    ids: IntArray,
    samples: IntArray,
    epoch: int | IntArray,
    seed: int,
    continues: BoolArray,
    rule: Masking,
) -> tuple[IntArray, IntArray]:
    """Mask a batch; every choice depends on (seed, epoch, sample, position) alone.

    Args:
        ids: tokens, int64 [B, S].
        samples: index of each sample in the data set [B].
        epoch: epoch of all samples, or one per sample [B].
        seed: seed of the job.
        continues: whether a token continues the word before it, bool [V].
        rule: the shares.

    Returns:
        Masked ids and labels, int64 [B, S]; labels are -100 where nothing is predicted.
    """
    place, fate, token, _ = draw(seed, Purpose.MASK, epoch, samples, ids.shape[1])
    ordinary = ids >= FIRST_WORD
    starts = _word_starts(ids, continues) if rule.whole_words else np.ones_like(ordinary)
    chosen = _choose(uniform(place), ordinary, starts, rule.share)
    luck = uniform(fate)
    masked = ids.copy()
    masked[chosen & (luck < rule.hidden)] = MASK
    words = len(continues) - FIRST_WORD
    replacement = FIRST_WORD + (token.astype(np.uint64) * np.uint64(words) >> np.uint64(32))
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
    count = ordinary.sum(axis=1, keepdims=True)
    budget = np.where(count > 0, np.maximum(1, np.rint(count * share)), 0)
    return (ranks[rows, first] < budget) & ordinary
