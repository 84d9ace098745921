"""Prefixes, replaced tokens, and documents that share a block."""

import itertools

import numpy as np
import pytest
import torch

from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.roles import OURS
from orchestrator.data.samples.base import document_ids, layout
from orchestrator.data.samples.block_samples import LmSamples, PrefixSamples, ReplacedSamples
from orchestrator.data.samples.kinds import ReplacedConfig
from orchestrator.data.spec import CLS, PAD, SEP
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig

EVERY = np.arange(40)
V = 100


class Words:
    continues = np.zeros(V, dtype=bool)


def test_documents_of_a_block_are_numbered_and_counted_from_0():
    ids = np.asarray([[7, SEP, CLS, 8, 9, SEP, CLS, SEP, PAD, PAD]])
    found = layout(ids, "documents", OURS)
    assert found["document_ids"].tolist() == [[0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]
    assert found["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 0, 1, 2, 3]]
    assert layout(ids, "stream", OURS) == {}


def test_labels_never_cross_a_border(blocks):
    batch = LmSamples(blocks, packing="documents").collate(EVERY, 0)
    labels, documents = batch["labels.lm"].numpy(), batch["document_ids"].numpy()
    assert (labels == LmSamples(blocks).collate(EVERY, 0)["labels.lm"].numpy()).all()
    asked = labels[:, :-1] != -100
    assert (documents[:, 1:] == documents[:, :-1])[asked].all()


@pytest.mark.parametrize("positions", ["pos", "rotary"])
def test_packed_documents_are_worth_what_they_are_alone(blocks, positions):
    encoder = {"type": "transformer", "num_layers": 2, "num_heads": 2, "mask": "causal"}
    parts = ["word"] + (["pos"] if positions == "pos" else [])
    if positions == "rotary":
        encoder["rotary"] = {}
    sizes = {"hidden_size": 16, "vocab_size": V, "max_position_embeddings": 16}
    embedding = {"parts": parts, "dropout": 0.0}
    encoder["dropout"] = 0.0
    config = ModelConfig.model_validate(
        sizes | {"embedding": embedding, "encoder": encoder, "target": "lm"}
    )
    torch.manual_seed(0)
    model = build_model(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    packed = LmSamples(blocks, packing="documents").collate(EVERY, 0)
    # every document (or part of one) of every block alone, from the stream by hand
    total, terms = 0.0, 0
    for row, labels in zip(packed["input_ids"], packed["labels.lm"], strict=True):
        ids = row[row != PAD]
        cuts = [0, *(i for i in range(1, len(ids)) if ids[i] == CLS), len(ids)]
        for a, b in itertools.pairwise(cuts):
            alone = {"input_ids": ids[None, a:b], "labels.lm": labels[None, a:b]}
            found = model(alone)
            total += float(found["loss.lm"])
            terms += int(found["count.lm"])
    together = model(packed)
    assert int(together["count.lm"]) == terms
    assert float(together["loss.lm"]) == pytest.approx(total, rel=1e-5)
    stream = model(LmSamples(blocks).collate(EVERY, 0))
    assert abs(float(stream["loss.lm"]) - total) > 1e-4 * total  # and it makes a difference


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_nothing_is_asked_that_the_prefix_shows(blocks, packing):
    samples = PrefixSamples(blocks, packing=packing)
    batch = samples.collate(EVERY, 0)
    ids, labels = batch["input_ids"].numpy(), batch["labels.lm"].numpy()
    prefix = batch["prefix_mask"].numpy().astype(bool)
    plain = LmSamples(blocks).collate(EVERY, 0)["labels.lm"].numpy()
    assert ((labels == plain) | (labels == -100)).all()
    assert not prefix[ids == PAD].any()
    assert not (prefix[:, 1:] & (labels[:, :-1] != -100)).any()
    texts = document_ids(ids, OURS) if packing == "documents" else np.zeros_like(ids)
    for row in range(len(ids)):
        for text in np.unique(texts[row]):
            mine = (texts[row] == text) & (ids[row] != PAD)
            shown = prefix[row, mine]
            assert shown[0]
            assert not shown[1:][~shown[:-1]].any()  # one run from the beginning
            assert not shown.all() or mine.sum() == 1
            # what comes after the prefix is asked, from its last token on
            last = np.flatnonzero(mine)[shown.sum() - 1]
            tail = np.flatnonzero(mine)[shown.sum() - 1 :]
            assert tail[0] == last
            assert (labels[row, tail] == plain[row, tail]).all()


def test_prefixes_of_all_lengths_are_alike(blocks):
    samples = PrefixSamples(blocks)
    lengths = np.concatenate(
        [samples.collate(EVERY[:39], e)["prefix_mask"].sum(1).numpy() for e in range(60)]
    )
    counts = np.bincount(lengths, minlength=17)[1:16]
    assert counts.sum() == len(lengths)
    assert counts.min() > 0.65 * counts.mean()
    assert counts.max() < 1.35 * counts.mean()


def test_replaced_tokens_are_told_from_original_ones(blocks, stream):
    ids = stream.reshape(40, 16)
    for kind in ("unigram", "uniform"):
        samples = ReplacedSamples(blocks, Words(), config=ReplacedConfig(replacements=kind))
        changed = total = 0
        for epoch in range(20):
            batch = samples.collate(EVERY, epoch)
            labels, read = batch["labels.rtd"].numpy(), batch["input_ids"].numpy()
            assert ((labels == 1) == (read != ids)).all()
            assert ((labels == -100) == (ids < 5)).all()
            assert (read[ids >= 5] >= 5).all()
            changed += (labels == 1).sum()
            total += (labels != -100).sum()
        assert changed / total == pytest.approx(0.15, abs=0.015)


def test_replacements_are_as_frequent_as_in_the_corpus():
    rows = np.full((50, 16), 7, dtype=np.uint16)
    rows[:, ::4] = 8  # a quarter
    blocks = TokenBlocks([rows], 16)
    samples = ReplacedSamples(blocks, Words(), config=ReplacedConfig(share=1.0))
    read = np.concatenate([samples.collate(np.arange(50), e)["input_ids"] for e in range(4)])
    assert (read == 8).mean() == pytest.approx(0.25, abs=0.03)
    assert set(np.unique(read)) == {7, 8}
