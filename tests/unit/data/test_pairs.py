import numpy as np
import pytest
import torch

from orchestrator.data.corpora.blocks import SplitWriter, TokenBlocks
from orchestrator.data.processors.roles import OURS
from orchestrator.data.samples.kinds import PairsConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.sentence_pairs import PairSamples
from orchestrator.data.spec import CLS, MASK, PAD, SEP
from orchestrator.errors import InputError

S = 32
V = 60_000


class Words:
    """A tokenizer in which every token is a word."""

    continues = np.zeros(V, dtype=bool)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(2, 12, rng.integers(2, 12)).tolist() for _ in range(150)]


@pytest.fixture(scope="module")
def blocks(documents, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "x.arrow"
    token = 5
    with SplitWriter(path, S, V, OURS) as writer:
        for lengths in documents:
            writer.add_document(list(range(token, token + sum(lengths))), np.asarray(lengths))
            token += sum(lengths)
    return TokenBlocks.open(path)


@pytest.fixture(scope="module")
def owner(documents):
    """Document of a token id."""
    ends = 5 + np.cumsum([sum(d) for d in documents])
    return lambda token: int(np.searchsorted(ends, token, side="right"))


def halves(batch, row):
    ids, types = batch["input_ids"][row].numpy(), batch["token_type_ids"][row].numpy()
    real = batch["attention_mask"][row].numpy() == 1
    assert ids[0] == CLS
    assert (ids[real] != PAD).all()
    assert (ids[~real] == PAD).all()
    first = ids[real & (types == 0)]
    second = ids[real & (types == 1)]
    assert first[-1] == SEP
    assert second[-1] == SEP
    return first[1:-1], second[:-1]


def everything(samples, epoch=0):
    return samples.collate(np.arange(len(samples)), epoch)


def test_next_sentences_follow_and_random_ones_are_from_another_document(blocks, owner):
    samples = PairSamples(blocks, Words(), "nsp")
    batch = everything(samples)
    labels = batch["labels.nsp"].numpy()
    for row, label in enumerate(labels):
        first, second = halves(batch, row)
        assert len(first) >= 1
        assert len(second) >= 1
        for half in (first, second):
            assert (np.diff(half) == 1).all()
        if label == 0:
            assert owner(first[0]) == owner(second[0])
            assert second[0] > first[-1]
        else:
            assert owner(first[0]) != owner(second[0])
    many = np.concatenate([everything(samples, epoch)["labels.nsp"] for epoch in range(8)])
    assert many.mean() == pytest.approx(0.5, abs=0.03)


def test_swapped_sentences_are_told_from_those_in_order(blocks, owner):
    samples = PairSamples(blocks, Words(), "sop", second="order")
    batch = everything(samples)
    for row, label in enumerate(batch["labels.sop"].tolist()):
        first, second = halves(batch, row)
        assert owner(first[0]) == owner(second[0])
        assert (second[0] > first[-1]) == (label == 0)
    assert {0, 1} == set(batch["labels.sop"].tolist())


def test_pairs_fit_and_a_tenth_is_shorter(blocks):
    samples = PairSamples(blocks, Words(), "nsp", config=PairsConfig(short_share=1.0))
    lengths = np.concatenate(
        [everything(samples, e)["attention_mask"].sum(1).numpy() for e in range(6)]
    )
    assert lengths.max() <= S
    assert lengths.min() < 8
    whole = PairSamples(blocks, Words(), "nsp", config=PairsConfig(short_share=0.0))
    assert everything(whole)["attention_mask"].sum(1).float().mean() > lengths.mean() + 5


def test_words_are_masked_in_the_same_batch(blocks):
    masked = PairSamples(blocks, Words(), "nsp", "mlm", seed=3)
    plain = PairSamples(blocks, Words(), "nsp", None, seed=3)
    batch, before = everything(masked), everything(plain)
    labels = batch["labels.mlm"]
    ids = before["input_ids"]
    assert torch.equal(torch.where(labels == IGNORED, ids, labels), ids)
    assert torch.equal(batch["labels.nsp"], before["labels.nsp"])
    assert torch.equal(torch.where(labels == IGNORED, batch["input_ids"], ids), ids)
    assert (labels != IGNORED).sum() / (ids >= 5).sum() == pytest.approx(0.15, abs=0.01)
    assert (batch["input_ids"] == MASK).any()
    assert "labels.mlm" not in before


@pytest.mark.parametrize("second", ["next", "order"])
def test_a_sample_does_not_depend_on_its_batch_but_on_the_epoch(blocks, second):
    samples = PairSamples(blocks, Words(), "p", "mlm", second=second)
    whole = samples.collate(np.arange(10, 30), 2)
    for place in (0, 7, 19):
        one = samples.collate(np.asarray([10 + place]), np.asarray([2]))
        size = one["input_ids"].shape[1]
        for name in ("input_ids", "token_type_ids", "labels.mlm"):
            assert torch.equal(one[name][0], whole[name][place, :size])
        assert one["labels.p"][0] == whole["labels.p"][place]
    other = samples.collate(np.arange(10, 30), 3)
    assert not torch.equal(other["labels.p"], whole["labels.p"])


def test_a_short_document_is_neither_lost_nor_asked_for_its_order(tmp_path):
    with SplitWriter(tmp_path / "x.arrow", S, 100, OURS) as writer:
        writer.add_document([7], np.asarray([1]))
        writer.add_document([8, 9, 10], np.asarray([3]))
    blocks = TokenBlocks.open(tmp_path / "x.arrow")
    order = everything(PairSamples(blocks, Words(), "sop", second="order"))
    assert order["labels.sop"][0] == IGNORED
    assert order["labels.sop"][1] in (0, 1)
    follows = everything(PairSamples(blocks, Words(), "nsp"))
    assert follows["labels.nsp"][0] == 1


def test_one_document_has_no_random_neighbour(tmp_path):
    with SplitWriter(tmp_path / "x.arrow", S, 100, OURS) as writer:
        writer.add_document([7, 8, 9], np.asarray([3]))
    blocks = TokenBlocks.open(tmp_path / "x.arrow")
    with pytest.raises(InputError, match="at least two documents"):
        PairSamples(blocks, Words(), "nsp")
