"""Source and target of encoder-decoder samples: by hand, by formulas written again, by rate."""

from dataclasses import replace
from itertools import chain
from math import ceil

import numpy as np
import pytest
import torch

from orchestrator.data.corpora.blocks import SplitWriter, TokenBlocks
from orchestrator.data.processors.roles import OURS
from orchestrator.data.processors.subwords import add_sentinels
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.tokenizer_files import sentinel_ids
from orchestrator.data.samples.kinds import DenoisingConfig, GapsConfig, SpansConfig
from orchestrator.data.samples.sequence_to_sequence import (
    DenoisingSamples,
    GapSentenceSamples,
    SpanCorruptionSamples,
    corrupt,
    overlap,
    poisson,
    segments,
)
from orchestrator.data.spec import CLS, MASK, PAD, SEP
from orchestrator.errors import InputError

S = 48
FIRST, WORDS = 5, 20_000
SENTINELS = list(range(WORDS + 99, WORDS - 1, -1))  # <extra_id_0> has the highest id


ROLES = replace(OURS, sentinels=tuple(SENTINELS))


class Words:
    """A tokenizer in which every token is a word, with 100 sentinels behind them."""

    continues = np.zeros(WORDS + 100, dtype=bool)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("sequences") / "x.arrow"
    token = FIRST
    with SplitWriter(path, S, WORDS, ROLES) as writer:
        for _ in range(200):
            lengths = rng.integers(3, 12, rng.integers(1, 12))
            writer.add_document(list(range(token, token + lengths.sum())), lengths)
            token += int(lengths.sum())
    return TokenBlocks.open(path, roles=ROLES)


MAKERS = {
    "spans": SpanCorruptionSamples,
    "denoising": lambda blocks: DenoisingSamples(blocks, Words()),
    "gaps": GapSentenceSamples,
}


def rows_of(batch, ids, mask):
    return [
        row[real == 1].tolist()
        for row, real in zip(batch[ids].numpy(), batch[mask].numpy(), strict=True)
    ]


def sources(batch):
    return rows_of(batch, "input_ids", "attention_mask")


def targets(batch):
    return [row[row != -100].tolist() for row in batch["labels.lm"].numpy()]


def everything(samples, epoch=0):
    return samples.collate(np.arange(len(samples)), epoch)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_the_decoder_reads_what_it_has_written(blocks, kind):
    samples = MAKERS[kind](blocks)
    batch = everything(samples)
    start = {"spans": PAD, "gaps": PAD, "denoising": SEP}[kind]
    inputs = rows_of(batch, "decoder_input_ids", "decoder_attention_mask")
    for read, written in zip(inputs, targets(batch), strict=True):
        assert read == [start, *written[:-1]]
        assert written[-1] == SEP
    assert batch["input_ids"].shape[1] <= S
    assert batch["decoder_input_ids"].shape[1] <= S
    assert {value.dtype for value in batch.values()} == {torch.int64}


@pytest.mark.parametrize("kind", list(MAKERS))
def test_the_mask_is_as_short_as_the_source(blocks, kind):
    batch = everything(MAKERS[kind](blocks))
    for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert real.tolist() == (ids != PAD).long().tolist()
        assert ids[real.sum() - 1] == SEP


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_sample_does_not_depend_on_its_batch_but_on_the_epoch(blocks, kind):
    samples = MAKERS[kind](blocks)
    whole = samples.collate(np.arange(10, 30), np.full(20, 2))
    for place in (0, 7, 19):
        one = samples.collate(np.asarray([10 + place]), 2)
        assert sources(one)[0] == sources(whole)[place]
        assert targets(one)[0] == targets(whole)[place]
    changed = sources(samples.collate(np.arange(10, 30), 3)) != sources(whole)
    assert changed == (kind != "gaps")  # the most important sentences stay the most important


def test_the_example_of_the_paper():
    text = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    vocabulary = {word: FIRST + number for number, word in enumerate(text)}
    names = {v: k for k, v in vocabulary.items()} | {100: "<X>", 99: "<Y>", SEP: "</s>"}
    source, target = corrupt(
        np.asarray([vocabulary[w] for w in text]),
        stays=np.asarray([2, 4]),
        removed=np.asarray([2, 1]),
        sentinels=np.asarray([100, 99]),
        end=np.asarray([SEP]),
    )
    read = " ".join(names[i] for i in source)
    assert read == "Thank you <X> me to your party <Y> week . </s>"
    assert " ".join(names[i] for i in target) == "<X> for inviting <Y> last </s>"


def test_span_corruption_is_undone_by_its_target(blocks):
    samples = SpanCorruptionSamples(blocks)
    batch = everything(samples)
    for index, (source, target) in enumerate(zip(sources(batch), targets(batch), strict=True)):
        spans, current = {}, None
        for token in target[:-1]:
            if token >= WORDS:
                current = spans.setdefault(token, [])
            else:
                current.append(token)
        assert list(spans) == SENTINELS[: len(spans)]
        restored = [w for t in source[:-1] for w in (spans[t] if t >= WORDS else [t])]
        assert restored == samples._passages.tokens(index).tolist()


def flax_corruption(tokens, noise, size):
    """Source and target of a noise mask as in transformers' ``run_t5_mlm_flax.py``, without ends.

    A run of noise (or, for the target, of what stays) becomes the sentinel ``size - number``.
    """
    found = []
    for mask in (noise, ~noise):
        starts = mask.astype(int) - np.roll(mask.astype(int), 1) * mask
        starts[0] = mask[0]
        sentinels = np.where(starts != 0, np.cumsum(starts), starts)
        sentinels = np.where(sentinels != 0, size - sentinels, 0) - (mask.astype(int) - starts)
        fused = np.where(sentinels != 0, sentinels, tokens)
        found.append(fused[fused >= 0].tolist())
    return found


def test_sequences_are_those_of_the_flax_example():
    rng = np.random.default_rng(4)
    for length in (12, 40, 113):
        tokens = rng.integers(10, 900, length)
        noise, spans = SpansConfig().sizes(length)
        kept = segments(length - noise, spans, rng.random(length))
        removed = segments(noise, spans, rng.random(length))
        turns = np.stack([kept, removed], axis=1).ravel()
        mask = np.repeat(np.arange(len(turns)) % 2 == 1, turns)
        size = 1000  # of the vocabulary: <extra_id_0> is 999
        source, target = corrupt(
            tokens, kept, removed, np.arange(size - 1, 900, -1), np.asarray([SEP])
        )
        expected_source, expected_target = flax_corruption(tokens, mask, size)
        assert source[:-1].tolist() == expected_source
        assert target[:-1].tolist() == expected_target


def reference_counts(length, density=0.15, mean=3.0):
    """Number of noise tokens and spans as in ``random_spans_noise_mask`` of T5's code."""
    noise = int(np.round(length * density))
    noise = min(max(noise, 1), length - 1)
    return noise, max(int(np.round(noise / mean)), 1)


@pytest.mark.parametrize("length", [8, 20, 64, 114, 512, 568])
def test_as_much_is_removed_as_in_t5(length):
    assert SpansConfig().sizes(length) == reference_counts(length)


def test_lengths_are_those_that_t5_computes():
    # compute_input_and_target_lengths(512, 0.15, 3.0) of T5's code: 568 tokens, targets of 114
    rule = SpansConfig()
    assert rule.room(512) == 568
    assert rule.lengths(568) == (512, 114)


def test_segments_are_all_partitions_alike():
    rng = np.random.default_rng(0)
    found = [tuple(segments(5, 3, rng.random(9))) for _ in range(6000)]
    expected = {(a, b, 5 - a - b) for a in range(1, 4) for b in range(1, 5 - a)}
    assert set(found) == expected
    counts = [found.count(partition) for partition in expected]
    assert min(counts) > 850  # 1000 each
    assert max(counts) < 1150


def test_rates_of_span_corruption(blocks):
    samples = SpanCorruptionSamples(blocks)
    removed = spans = total = 0
    for epoch in range(4):
        for target in targets(everything(samples, epoch)):
            removed += sum(FIRST <= token < WORDS for token in target)
            spans += sum(token >= WORDS for token in target)
        total += sum(len(samples._passages.tokens(i)) for i in range(len(samples)))
    assert removed / total == pytest.approx(0.15, abs=0.01)
    assert removed / spans == pytest.approx(3.0, abs=0.4)


def test_sentinels_are_reserved_at_the_end_of_the_vocabulary():
    processor = TextProcessor.train(["some words <extra_id_0> and more"] * 4, 300)
    size = processor.vocab_size
    add_sentinels(processor.tokenizer, 3)
    assert sentinel_ids(processor.tokenizer) == [size + 2, size + 1, size]
    assert max(processor.encode(["words <extra_id_0>"])[0]) < size  # text never makes one
    assert not processor.continues[size:].any()


def test_too_few_sentinels_are_refused(blocks):
    few = TokenBlocks(blocks._chunks, S, blocks.borders, roles=OURS)
    with pytest.raises(InputError, match=r"has 0 sentinels, blocks of 48 tokens need 3"):
        SpanCorruptionSamples(few)


def test_denoised_text_is_the_text_and_order_is_kept_where_asked(blocks):
    samples = DenoisingSamples(blocks, Words(), config=DenoisingConfig(shuffle=False))
    batch = everything(samples)
    for index, (source, target) in enumerate(zip(sources(batch), targets(batch), strict=True)):
        text = samples._passages.tokens(index).tolist()
        assert target == [CLS, *text, SEP]
        assert (source[0], source[-1]) == (CLS, SEP)
        kept = [token for token in source[1:-1] if token != MASK]
        assert kept == sorted(kept)
        if len(source) < S:
            assert len(kept) == len(text) - ceil(0.3 * len(text))


def test_rates_of_text_infilling(blocks):
    samples = DenoisingSamples(blocks, Words())
    lengths = np.searchsorted(samples._lengths, np.random.default_rng(0).random(50_000), "right")
    assert lengths.mean() == pytest.approx(3.0, abs=0.05)
    assert (lengths == 0).mean() == pytest.approx(np.exp(-3), abs=0.005)
    assert poisson(3.0)[2] == pytest.approx(np.exp(-3) * (1 + 3 + 4.5))
    hidden = total = masks = expected = 0
    rng = np.random.default_rng(1)
    for epoch in range(3):
        batch = everything(samples, epoch)
        for source, target in zip(sources(batch), targets(batch), strict=True):
            masks += source.count(MASK)
            hidden += len(set(target)) - len(set(source) - {MASK})
            total += len(target) - 2
            wanted = ceil(0.3 * (len(target) - 2))
            expected += int((np.cumsum(rng.poisson(3.0, 200)) < wanted).sum()) + 1
    assert hidden / total == pytest.approx(0.3, abs=0.03)  # rounded up in each text
    assert masks == pytest.approx(expected, rel=0.03)


def test_sentences_are_shuffled_whole(blocks):
    samples = DenoisingSamples(blocks, Words(), config=DenoisingConfig(share=0.0))
    batch = everything(samples)
    moved = 0
    for index, source in enumerate(sources(batch)):
        sentences = [s.tolist() for s in samples._passages.sentences(index)]
        text = source[1:-1]
        places = [text.index(sentence[0]) for sentence in sentences]
        for place, sentence in zip(places, sentences, strict=True):
            assert text[place : place + len(sentence)] == sentence
        moved += places != sorted(places)
    assert moved > 0.5 * len(samples)


def test_gaps_are_the_missing_sentences(blocks):
    for selection in ("principal", "lead", "random"):
        samples = GapSentenceSamples(blocks, config=GapsConfig(selection=selection))
        batch = everything(samples)
        share = []
        for index, (source, target) in enumerate(zip(sources(batch), targets(batch), strict=True)):
            sentences = samples._passages.sentences(index)
            if len(sentences) == 1:
                sentences = np.array_split(sentences[0], 2)
            gone = [s.tolist() for s in sentences if s[0] not in source]
            assert target == [*chain(*gone), SEP]
            assert (
                source.count(MASK)
                == len(gone)
                == min(max(1, round(0.3 * len(sentences))), len(sentences) - 1)
            )
            if selection == "lead":
                assert source[0] == MASK
            share.append(len(gone) / len(sentences))
        assert np.mean(share) > 0.2


def test_the_principal_sentence_is_most_like_the_rest(blocks):
    sentences = [np.asarray(s) for s in ([5, 6, 7], [5, 6, 8, 9], [20, 21], [8, 9, 30, 31, 32])]
    scores = overlap(sentences)
    # by hand: common words with the rest, both lengths
    assert scores == pytest.approx([2 * 2 / 14, 2 * 4 / 14, 0.0, 2 * 2 / 14])
    maker = GapSentenceSamples(blocks)
    source, target = maker.make(sentences, np.zeros((4, 50)))
    assert source.tolist() == [5, 6, 7, MASK, 20, 21, 8, 9, 30, 31, 32, SEP]
    assert target.tolist() == [5, 6, 8, 9, SEP]


def test_nothing_is_asked_of_a_single_token(tmp_path):
    with SplitWriter(tmp_path / "x.arrow", 8, 100, ROLES) as writer:
        writer.add_document([7], np.asarray([1]))
    blocks = TokenBlocks.open(tmp_path / "x.arrow", roles=ROLES)
    assert (everything(GapSentenceSamples(blocks))["labels.lm"] == -100).all()
    spans = everything(SpanCorruptionSamples(blocks))
    assert sources(spans) == [[SENTINELS[0], SEP]]
    assert targets(spans) == [[SENTINELS[0], 7, SEP]]
