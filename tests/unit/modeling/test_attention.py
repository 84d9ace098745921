"""Attention: both back ends, padding, causality, rows that may read nothing."""

import math

import pytest
import torch

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.layers.attention import Attention, AttentionMask, attention_mask
from orchestrator.modeling.layers.block_options import BlockOptions, RotaryConfig
from orchestrator.modeling.layers.relative_positions import rotate, rotation

from .small import LENGTH, make_batch, make_model

WIDTH = 12
ORDERS = {False: "bidirectional", True: "causal"}
SIZES = Dimensions(
    hidden_size=WIDTH,
    vocab_size=9,
    max_position_embeddings=LENGTH,
    type_vocab_size=2,
    pad_token_id=0,
)


def pair(num_kv_heads):
    """The same attention twice: fused and by its formula."""
    modules = []
    for eager in (False, True):
        torch.manual_seed(1)
        options = BlockOptions(
            num_heads=4,
            num_kv_heads=num_kv_heads,
            head_size=6,
            attention="eager" if eager else "sdpa",
        )
        modules.append(Attention(options, SIZES))
    return modules


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_fused_attention_equals_the_formula(num_kv_heads, padded, causal):
    fused, eager = pair(num_kv_heads)
    real = make_batch()["attention_mask"].bool() if padded else torch.ones(4, LENGTH).bool()
    mask = attention_mask(real, order=ORDERS[causal])
    x = torch.randn(4, LENGTH, WIDTH)
    results = []
    for module in (fused, eager):
        own = x.clone().requires_grad_()
        output = module(own, mask)
        output[real].square().sum().backward()
        results.append((output[real].detach(), own.grad, module.query.weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_a_sequence_of_padding_alone_stays_finite(eager, causal):
    module = pair(4)[eager]
    real = torch.ones(2, LENGTH, dtype=torch.bool)
    real[1] = False
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    output = module(x, attention_mask(real, order=ORDERS[causal]))
    output.sum().backward()
    assert output.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    torch.testing.assert_close(output[1], module.output.bias.expand_as(output[1]))


def test_a_full_mask_needs_no_tensor():
    assert attention_mask(torch.ones(2, 3, dtype=torch.bool), order="causal") == AttentionMask(
        None, causal=True
    )


def test_causal_positions_do_not_see_the_future():
    model = make_model(encoder={"type": "transformer", "num_heads": 2, "mask": "causal"})
    batch = make_batch()
    del batch["attention_mask"]
    before = model.encode(batch)
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][:, 5] = 1
    after = model.encode(batch)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_rotary_scores_depend_on_distance_alone(layout):
    query, key = torch.randn(2, 1, 1, 1, 8).double()

    def score(at, of):
        positions = torch.tensor([[at], [of]])
        angles = rotation(RotaryConfig(theta=100.0, layout=layout), positions, 8, torch.float64)
        turned = rotate(torch.cat([query, key]), angles)
        return (turned[0] * turned[1]).sum()

    assert math.isclose(score(3, 1), score(13, 11), rel_tol=1e-5)
    assert not math.isclose(score(3, 1), score(3, 2), rel_tol=1e-3)


def test_rotary_follows_given_positions():
    model = make_model(
        initializer_range=0.5,
        embedding={"parts": ["word"]},
        encoder={"type": "transformer", "num_heads": 2, "mask": "causal", "rotary": {}},
    )
    batch = make_batch()
    shifted = batch | {"position_ids": (torch.arange(LENGTH) + 100).expand(4, -1)}
    torch.testing.assert_close(model.encode(batch), model.encode(shifted), atol=1e-5, rtol=0)
    stretched = batch | {"position_ids": (torch.arange(LENGTH) * 3).expand(4, -1)}
    assert (model.encode(batch) - model.encode(stretched)).abs().max() > 1e-4
