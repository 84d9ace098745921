"""Batches without their padding: answers and gradients of padded ones, and what is refused."""

import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.modeling.layers.unpadding import packing_of

from .small import VOCAB, make_model

LENGTH = 300
MODERN = {
    "norm_position": "pre",
    "first_norm": False,
    "rotary": {},
    "window": 5,
    "window_layers": [1],
    "window_rotary": {"theta": 50.0},
}
BLOCKS = {"post": {}, "modern": MODERN, "wide_window": {"window": 299}}


def batch_of(lengths):
    mask = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        first = LENGTH - length if row % 2 else 0
        mask[row, first : first + length] = 1
    return {"input_ids": torch.randint(1, VOCAB, mask.shape) * mask, "attention_mask": mask}


def pair(blocks):
    made = []
    for attention in ("sdpa", "unpadded"):
        torch.manual_seed(3)
        encoder = {"type": "transformer", "num_heads": 2, "dropout": 0.0, "attention": attention}
        embedding = {"parts": ["word", "pos"], "dropout": 0.0}
        sizes = {"max_position_embeddings": LENGTH, "initializer_range": 0.3}
        made.append(make_model(embedding=embedding, encoder=encoder | BLOCKS[blocks], **sizes))
    return made


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lengths", [(300, 7, 1, 299), (20, 9), (300, 300), (290, 0, 4)])
@pytest.mark.parametrize("blocks", list(BLOCKS))
def test_a_packed_batch_answers_like_a_padded_one(blocks, lengths, checkpointing):
    batch, results = batch_of(lengths), []
    real = batch["attention_mask"].bool()
    for model in pair(blocks):
        model.train()
        model.checkpoint_activations(checkpointing)
        hidden = model.encode(batch)
        hidden[real].square().sum().backward()
        used = [p for p in model.parameters() if p.grad is not None]
        results.append((hidden[real].detach(), *(p.grad / len(real) for p in used)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_layer_sees_padding():
    model = pair("modern")[1]
    seen = []
    model.encoder.layers[1].feed_forward.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[:2])
    )
    model.encode(batch_of((300, 7, 1)))
    model.encode(batch_of((300, 300)))
    assert [tuple(each) for each in seen] == [(1, 308), (2, 300)]


@pytest.mark.parametrize(
    "mask", [[[1, 1, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 0]]], ids=["full", "holes"]
)
def test_what_is_not_packed(mask):
    assert packing_of(torch.tensor(mask).bool()) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask", {"mask": "causal"}),
        ("position_bias", {"position_bias": {"type": "t5"}}),
        ("experts", {"experts": {}}),
        ("drop_path", {"drop_path": 0.1}),
    ],
)
def test_blocks_that_cannot_be_unpadded_are_refused(name, options):
    encoder = {"type": "transformer", "attention": "unpadded"} | options
    with pytest.raises(ConfigError, match=f"{name}: is not for `attention: unpadded`"):
        make_model(encoder=encoder)


def test_decoders_are_refused():
    decoder = {"type": "transformer", "attention": "unpadded"}
    with pytest.raises(ConfigError, match="attention: unpadded is for encoders"):
        make_model(
            encoder="transformer",
            decoder=decoder,
            target_embedding={"parts": ["word"]},
            target="lm",
        )
