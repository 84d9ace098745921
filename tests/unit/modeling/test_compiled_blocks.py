"""Blocks compile as one graph, and `engine.compile` trains with them."""

import pytest
import torch

from orchestrator.cluster.engines import build_engine
from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.layers import feed_forward
from orchestrator.training.config import EngineConfig, OptimizerConfig

from .small import LENGTH, VOCAB, make_config, make_model

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
    "gemma": {
        "norm_position": "both",
        "norm": "rms_offset",
        "attention_softcap": 5.0,
        "query_key_norm": "head",
        "num_kv_heads": 2,
        "mask": "causal",
        "rotary": {"share": 0.5},
    },
    "olmo": {
        "norm_position": "output",
        "norm": "rms",
        "query_key_norm": "projection",
        "mask": "causal",
        "rotary": {
            "scaling": {
                "type": "longrope",
                "short_factor": [1.0, 2.0],
                "long_factor": [3.0, 4.0],
                "original_max_position_embeddings": 5,
                "factor": 2.0,
            }
        },
    },
    "bloom": {"norm_position": "pre", "mask": "causal", "position_bias": {"type": "alibi"}},
    "t5": {"norm_position": "pre", "norm": "rms", "position_bias": {"type": "t5"}, "window": 3},
    "deberta": {"position_bias": {"type": "disentangled", "max_distance": 5}},
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


@pytest.mark.parametrize("name", ["bert", "llama", "gemma", "olmo", "t5"])
def test_an_encoder_has_no_graph_break(name):
    model = make_model(encoder=BASE | BLOCKS[name])
    compiled, inputs = torch.compile(model.encode, fullgraph=True, backend="eager"), batch()
    torch.testing.assert_close(compiled(inputs), model.encode(inputs))


QUIET = {"dropout": 0.0}
TRAINED = {
    "llama": {
        "embedding": {"parts": ["word"], **QUIET},
        "encoder": BASE | BLOCKS["llama"] | QUIET | {"num_layers": 3},
        "target": "lm",
    },
    "t5": {
        "embedding": {"parts": ["word"], **QUIET},
        "encoder": BASE | BLOCKS["t5"] | QUIET | {"num_layers": 2},
        "target_embedding": {"parts": ["word"], **QUIET},
        "decoder": BASE | QUIET | {"num_layers": 2, "position_bias": {"type": "t5"}},
        "target": {"type": "lm", "label_smoothing": 0.1},
    },
}


def losses_of(name, steps=5, **engine):
    """Train on batches with and without padding; return the losses, and one of an evaluation."""
    torch.manual_seed(0)
    model = build_model(make_config(**TRAINED[name])).train()
    config = EngineConfig(type="single", **engine)
    built = build_engine(model, OptimizerConfig(eps=1e-6), config, world=1)
    found = []
    for step in range(steps):
        each = batch() if step % 2 else {"input_ids": torch.randint(1, VOCAB, (2, LENGTH))}
        each |= {f"decoder_{key}": value for key, value in each.items()}
        each["labels.lm"] = torch.where(each["input_ids"] > 0, each["input_ids"], -100)
        found.append(built.forward_backward([each])["loss"])
        built.set_lr(1e-2)
        built.step()
    return [*found, built.evaluate([each])["loss"]], set(dict(model.named_parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_compiled_engine_trains_the_same(name, monkeypatch):
    ran, compiled_one = set(), feed_forward.compiled

    def note(function):
        ran.add(function.__qualname__)
        return compiled_one(function)

    monkeypatch.setattr(feed_forward, "compiled", note)
    plain, names = losses_of(name)
    assert not ran
    compiled, same_names = losses_of(name, compile=True)
    assert compiled == pytest.approx(plain, abs=1e-5)
    assert same_names == names
    stacks = {"llama": {"TransformerLayer"}, "t5": {"TransformerLayer", "DecoderLayer"}}[name]
    assert ran == {f"{layer}.transform" for layer in stacks}


def test_compiled_blocks_keep_to_checkpointing():
    plain, _ = losses_of("llama", steps=2)
    both, _ = losses_of("llama", steps=2, compile=True, activation_checkpointing=True)
    assert both == pytest.approx(plain, abs=1e-5)


REFUSED = {
    "no component of this model has blocks": {"encoder": {"type": "lstm"}, "target": "lm"},
    "the blocks have experts": {"encoder": BASE | BLOCKS["mixtral"], "target": "mlm"},
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_what_cannot_be_compiled_is_refused(reason):
    model = build_model(make_config(**REFUSED[reason]))
    with pytest.raises(InputError, match=f"engine.compile: true, but {reason}"):
        build_engine(model, OptimizerConfig(), EngineConfig(type="single", compile=True), world=1)


def test_deepspeed_is_not_compiled():
    with pytest.raises(ConfigError, match="compile: is not for DeepSpeed"):
        validate_config(EngineConfig, {"type": "zero", "compile": True}, "test")
    assert validate_config(EngineConfig, {"type": "fsdp2", "compile": True}, "test").compile
