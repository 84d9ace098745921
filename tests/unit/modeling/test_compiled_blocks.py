"""Blocks compile as one graph."""

import pytest
import torch

from .small import LENGTH, VOCAB, make_model

BASE = {"type": "transformer", "num_heads": 4, "num_layers": 1}
BLOCKS = {
    "bert": {},
    "llama": {
        "norm_position": "pre",
        "norm": "rms",
        "feed_forward": "gated",
        "activation": "silu",
        "num_kv_heads": 2,
        "bias": False,
        "mask": "causal",
        "rotary": {"scaling": {"type": "linear", "factor": 2.0}},
    },
    "bloom": {"norm_position": "pre", "mask": "causal", "position_bias": {"type": "alibi"}},
    "t5": {"norm_position": "pre", "norm": "rms", "position_bias": {"type": "t5"}, "window": 3},
    "mixtral": {"norm": "rms", "feed_forward": "gated", "experts": {"num_experts": 4}},
}


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch():
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(1, VOCAB, (2, LENGTH)) * mask, "attention_mask": mask}


def layer_and_inputs(model):
    """Return the first block and what it is called with."""
    layer, seen = model.encoder.layers[0], []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    model.encode(batch())
    handle.remove()
    return layer, [x.detach() if isinstance(x, torch.Tensor) else x for x in seen[0]]


@pytest.mark.parametrize("name", list(BLOCKS))
def test_a_block_has_no_graph_break(name):
    layer, inputs = layer_and_inputs(make_model(encoder=BASE | BLOCKS[name]))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = compiled(*inputs)
    torch.testing.assert_close(found, layer(*inputs), atol=1e-5, rtol=0)
    found.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_an_encoder_has_no_graph_break(name):
    model = make_model(encoder=BASE | BLOCKS[name])
    compiled, inputs = torch.compile(model.encode, fullgraph=True, backend="eager"), batch()
    torch.testing.assert_close(compiled(inputs), model.encode(inputs))
