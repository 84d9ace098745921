from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.processors.roles import OURS
from orchestrator.data.samples.kinds import MaskingConfig
from orchestrator.data.samples.masking import IGNORED, Vocabulary, mask_tokens
from orchestrator.data.spec import CLS, MASK, PAD, SEP

V = 200
CONTINUES = np.arange(V) % 3 == 0
CONTINUES[:5] = False
VOCABULARY = Vocabulary.of(CONTINUES, OURS)
BERT = MaskingConfig()


def ids_of(rng, rows, length, padding=0):
    ids = rng.integers(5, V, (rows, length))
    ids[:, 0] = CLS
    ids[:, length // 2] = SEP
    ids[:, length // 2 + 1] = CLS
    if padding:
        ids[:, -padding:] = PAD
    return ids


def mask(ids, rule=BERT, samples=None, epoch=0, seed=3):
    samples = np.arange(len(ids)) if samples is None else samples
    return mask_tokens(ids, samples, epoch, seed, VOCABULARY, rule)


def test_share_and_fates_are_those_of_bert():
    ids = ids_of(np.random.default_rng(0), 4000, 64, padding=4)
    masked, labels = mask(ids)
    chosen = labels != IGNORED
    ordinary = (ids >= 5).sum(axis=1)
    assert (chosen.sum(axis=1) == np.rint(ordinary * 0.15)).all()
    assert (labels[chosen] == ids[chosen]).all()
    n = chosen.sum()
    hidden = (masked[chosen] == MASK).sum() / n
    kept = (masked[chosen] == ids[chosen]).sum() / n
    assert hidden == pytest.approx(0.8, abs=0.01)
    # 10 % stay, and a random token is the same one in 1 of 195 cases
    assert kept == pytest.approx(0.1 + 0.1 / (V - 5), abs=0.01)
    swapped = masked[chosen & (masked != MASK) & (masked != ids)]
    assert swapped.min() == 5
    assert swapped.max() == V - 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["tokens", "words"]), st.integers(2, 40))
def test_special_tokens_are_never_chosen_nor_changed(seed, units, length):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 12, (4, length))
    masked, labels = mask(ids, MaskingConfig(units=units), seed=seed)
    special = ids < 5
    assert (labels[special] == IGNORED).all()
    assert (masked[special] == ids[special]).all()
    assert (masked[(labels == IGNORED)] == ids[labels == IGNORED]).all()
    has_words = (~special).any(axis=1)
    assert ((labels != IGNORED).any(axis=1) == has_words).all()


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 9), st.sampled_from(["tokens", "words"]))
def test_choices_do_not_depend_on_the_batch(order, epoch, units):
    ids = ids_of(np.random.default_rng(5), 12, 24)
    rule = MaskingConfig(units=units)
    masked, labels = mask(ids, rule, epoch=epoch)
    order = np.asarray(order)
    parts = [mask(ids[part], rule, samples=part, epoch=epoch) for part in (order[:5], order[5:])]
    assert (np.concatenate([p[0] for p in parts]) == masked[order]).all()
    assert (np.concatenate([p[1] for p in parts]) == labels[order]).all()


def test_masking_is_new_in_every_epoch():
    ids = ids_of(np.random.default_rng(5), 50, 64)
    first, second = mask(ids, epoch=0)[1], mask(ids, epoch=1)[1]
    both = ((first != IGNORED) & (second != IGNORED)).sum() / (first != IGNORED).sum()
    assert both < 0.25  # 0.15 by chance


def words_of(row):
    """Slices of the words of a row, computed token by token."""
    starts = [i for i, token in enumerate(row) if i == 0 or not CONTINUES[token] or row[i - 1] < 5]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)]


def test_whole_words_are_chosen_whole():
    ids = ids_of(np.random.default_rng(9), 200, 48)
    _, labels = mask(ids, MaskingConfig(units="words"))
    chosen = labels != IGNORED
    longest = 0
    for row, picked in zip(ids, chosen, strict=True):
        for word in words_of(row):
            assert len(set(picked[word])) == 1
            longest = max(longest, int(picked[word].sum()))
        budget = max(1, round((row >= 5).sum() * 0.15))
        assert budget <= picked.sum()
    assert longest > 1
    assert chosen.sum() / (ids >= 5).sum() < 0.2


def test_static_masks_come_back_after_their_copies():
    ids = ids_of(np.random.default_rng(0), 30, 32)
    rule = MaskingConfig(copies=3)
    found = [mask(ids, rule, epoch=epoch)[1] for epoch in range(6)]
    assert all((found[e] == found[e + 3]).all() for e in range(3))
    assert not (found[0] == found[1]).all()
    dynamic = [mask(ids, epoch=epoch)[1] for epoch in (0, 3)]
    assert not (dynamic[0] == dynamic[1]).all()


def test_random_tokens_are_no_sentinels():
    ids = ids_of(np.random.default_rng(0), 300, 32)
    roles = replace(OURS, added=(*OURS.added, *range(100, V)))
    vocabulary = Vocabulary.of(CONTINUES, roles)
    rule = MaskingConfig(hidden=0.0, random=1.0)
    masked, _ = mask_tokens(ids % 100, np.arange(300), 0, 1, vocabulary, rule)
    assert masked.max() == 99


SPANS = MaskingConfig(units="spans")


def runs(chosen):
    """Lengths of runs of True in each row."""
    edges = np.diff(np.pad(chosen.astype(int), ((0, 0), (1, 1))), axis=1)
    return np.nonzero(edges < 0)[1] - np.nonzero(edges > 0)[1]


def test_spans_have_the_share_the_lengths_and_one_fate_each():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, V, (2000, 200))
    continues = np.zeros(V, dtype=bool)
    masked, labels = mask_tokens(ids, np.arange(2000), 0, 3, Vocabulary.of(continues, OURS), SPANS)
    chosen = labels != IGNORED
    assert (chosen.sum(axis=1) == 30).all()  # exactly 15 %
    hidden = masked == MASK
    assert hidden.sum() / chosen.sum() == pytest.approx(0.8, abs=0.02)
    # SpanBERT, section 3.1: mean 3.8; some spans touch, the last of a row is cut
    mean = (np.arange(1, 11) * 0.8 ** np.arange(10)).sum() / (0.8 ** np.arange(10)).sum()
    assert mean == pytest.approx(3.8, abs=0.01)
    assert runs(chosen).mean() == pytest.approx(mean, abs=0.5)
    # tokens beside one another share their fate far more often than chance (0.8² + 0.2²)
    both = chosen[:, 1:] & chosen[:, :-1]
    assert (hidden[:, 1:] == hidden[:, :-1])[both].mean() > 0.93


def test_spans_begin_with_words_and_stop_at_special_tokens():
    ids = ids_of(np.random.default_rng(0), 500, 64, padding=5)
    _, labels = mask(ids, SPANS)
    chosen = labels != IGNORED
    assert not chosen[ids < 5].any()
    begins = chosen & ~np.pad(chosen, ((0, 0), (1, 0)))[:, :-1]
    after_special = np.pad(ids[:, :-1] < 5, ((0, 0), (1, 0)))
    inside = begins & CONTINUES[ids] & ~after_special
    assert inside.sum() == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 30), st.floats(0.01, 1.0))
def test_any_share_of_spans_can_be_chosen(seed, length, share):
    ids = np.random.default_rng(seed).integers(0, 30, (4, length))
    _, labels = mask(ids, MaskingConfig(share=share, units="spans"), seed=seed)
    ordinary = (ids >= 5).sum(axis=1)
    expected = np.where(ordinary > 0, np.maximum(1, np.rint(ordinary * share)), 0)
    assert ((labels != IGNORED).sum(axis=1) == expected).all()


def test_whole_words_are_those_of_transformers(texts, processor):
    """Their words are runs of tokens without a gap between their characters."""
    collator = pytest.importorskip("transformers.data.data_collator")
    find_words = collator.DataCollatorForLanguageModeling._calc_word_ids_and_prob_mask
    encodings = processor.tokenizer.encode_batch(texts[:60], add_special_tokens=True)
    length = max(len(encoding) for encoding in encodings)
    ids = np.zeros((60, length), dtype=np.int64)
    offsets = np.zeros((60, length, 2), dtype=np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = encoding.ids
        offsets[row, : len(encoding)] = encoding.offsets
    words, _ = find_words(offsets, (ids < 5).astype(np.int64))
    vocabulary = Vocabulary.of(processor.continues, processor.roles)
    _masked, labels = mask_tokens(
        ids, np.arange(60), 0, 3, vocabulary, MaskingConfig(units="words")
    )
    chosen = labels != IGNORED
    assert chosen.any()
    for row in range(60):
        for word in np.unique(words[row][ids[row] >= 5]):
            mine = (words[row] == word) & (ids[row] >= 5)
            assert chosen[row, mine].all() or not chosen[row, mine].any()
    whole = collator.DataCollatorForLanguageModeling._whole_word_mask(words, chosen)
    assert (np.asarray(whole)[ids >= 5] == chosen[ids >= 5]).all()
