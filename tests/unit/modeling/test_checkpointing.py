"""Activation checkpointing: the same gradients from less memory."""

import pytest
import torch

from orchestrator.cluster.engines import build_engine
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.training.config import EngineConfig, OptimizerConfig

from .small import LENGTH, VOCAB, make_batch, make_config

BLOCKS = {"num_heads": 2, "intermediate_size": 64, "num_layers": 4}
MODELS = {
    "encoder": {
        "encoder": {"type": "transformer", **BLOCKS, "rotary": {}, "position_bias": {"type": "t5"}},
        "target": "mlm",
    },
    "patterns": {
        "encoder": {
            "type": "transformer",
            **BLOCKS,
            "norm_position": "pre",
            "first_norm": False,
            "window": 3,
            "window_layers": [1, 3],
            "rotary": {},
            "window_rotary": {"theta": 20.0},
        },
        "target": "mlm",
    },
    "disentangled": {
        "encoder": {
            "type": "transformer",
            **BLOCKS,
            "position_bias": {"type": "disentangled", "max_distance": 5, "norm": True},
            "convolution": {},
        },
        "target": "mlm",
    },
    "experts": {
        "encoder": {"type": "transformer", **BLOCKS, "experts": {"num_experts": 4}},
        "target": ["mlm", "balance"],
    },
    "decoder": {
        "encoder": {"type": "transformer", **BLOCKS},
        "target_embedding": {"parts": ["word", "pos"]},
        "decoder": {"type": "transformer", **BLOCKS, "position_bias": {"type": "t5"}},
        "target": "lm",
    },
}


def batch_for(model):
    batch = make_batch()
    batch |= {f"decoder_{key}": batch[key] for key in ("input_ids", "attention_mask")}
    real = batch["attention_mask"].bool()
    labels = torch.where(real, torch.randint(1, VOCAB, (4, LENGTH)), -100)
    return batch | {f"labels.{name}": labels for name in model.targets if name != "balance"}


def backward(model, batch, on):
    """Return gradients and the number of values that the graph keeps."""
    model.checkpoint_activations(on)
    model.zero_grad()
    torch.manual_seed(1)  # the same dropout
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], _same):
        result = model(batch)
        loss = sum(value for key, value in result.items() if key.startswith("loss."))
        values = sum(kept)
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}, values


def _same(tensor):
    return tensor


@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_the_same_and_fewer_values_are_kept(name):
    model = build_model(make_config(**MODELS[name])).train()
    batch = batch_for(model)
    expected, all_values = backward(model, batch, on=False)
    found, values = backward(model, batch, on=True)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-6, rtol=0, msg=key)
    assert values < 0.5 * all_values


def test_the_engine_config_switches_it_on_or_says_why_not():
    engine = EngineConfig(type="single", activation_checkpointing=True)
    model = build_model(make_config(**MODELS["encoder"]))
    build_engine(model, OptimizerConfig(), engine, world=1)
    assert model.encoder.checkpointing
    plain = build_model(make_config(encoder={"type": "lstm"}, target="lm"))
    with pytest.raises(InputError, match="activation_checkpointing"):
        build_engine(plain, OptimizerConfig(), engine, world=1)
