"""Graphs of every encoder family against torch: each hidden state, alone and together."""

import numpy as np
import pytest

from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.quantization.backends.onnxruntime_cpu.audit import audit, verify
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import fully_quant

from .models import EncoderGraph, encoded, model_config, ragged_batch, random_model, state_of

TINY = {"width": 32, "heads": ()}


def blocks(**options):
    return {
        "type": "transformer",
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 40,
    } | options


LLAMA = {
    "norm_position": "pre", "norm": "rms", "mask": "causal", "activation": "silu",
    "feed_forward": "gated", "bias": False, "num_kv_heads": 2, "rotary": {}, "norm_eps": 1e-6,
}  # fmt: skip
COUNTED = {"type": "pos", "offset": 2, "pad_aware": True}
WORDS = {"parts": ("word",), "layernorm": False}
V3 = {"type": "disentangled", "max_distance": 20, "buckets": 8, "norm": True}
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
LLAMA3 = {"type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {
    "type": "longrope", "short_factor": [1.0, 1.5, 1.7, 2.0], "long_factor": [2.0, 3.0, 4.0, 5.0],
    "factor": 2.0, "original_max_position_embeddings": 20,
}  # fmt: skip
FAMILIES = {
    "albert": (blocks(shared_layers=True, activation="gelu_tanh"), {"size": 16}),
    "electra": (blocks(norm_eps=1e-12), {"size": 16}),
    "distilbert": (blocks(), {"parts": ("word", "pos")}),
    "roberta": (blocks(), {"parts": ("word", COUNTED, "seg")}),
    "mpnet": (
        blocks(position_bias={"type": "t5", "buckets": 8, "max_distance": 20}),
        {"parts": ("word", COUNTED)},
    ),
    "deberta": (
        blocks(
            position_bias={"type": "disentangled", "max_distance": 7},
            attention_bias=("query", "value", "output"),
        ),
        {"parts": ("word",)},
    ),
    "deberta v3": (
        blocks(position_bias=V3 | {"shared_projections": True}),
        {"parts": ("word",), "size": 24, "projection": "first"},
    ),
    "deberta v2 xlarge": (
        blocks(position_bias=V3, convolution={"kernel_size": 3, "activation": "gelu"}),
        {"parts": ("word",)},
    ),
    "deberta v2, grouped convolution": (
        blocks(
            position_bias=V3 | {"position_to_content": False}, convolution={"groups": 2}
        ),
        {"parts": ("word",)},
    ),
    "modernbert": (
        blocks(
            num_layers=3, norm_position="pre", norm_bias=False, bias=False, feed_forward="gated",
            first_norm=False, window=4, window_layers=(1, 2), rotary={"theta": 300.0},
            window_rotary={"theta": 10.0}, attention="unpadded",
        ),
        {"parts": ("word",), "norm_bias": False},
    ),
    "nomic bert": (
        blocks(feed_forward="gated", activation="silu", bias=False, rotary={}),
        {"parts": ("word", "seg")},
    ),
    "gte": (
        blocks(feed_forward="gated", feed_forward_bias=("down",), rotary={}),
        {"parts": ("word", "seg")},
    ),
    "gpt2": (
        blocks(norm_position="pre", mask="causal", activation="gelu_tanh"),
        {"parts": ("word", "pos"), "layernorm": False},
    ),
    "qwen2": (
        blocks(
            **LLAMA | {"attention_bias": ("query", "key", "value")}, window=5, window_from=1
        ),
        WORDS,
    ),
    "qwen3": (blocks(**LLAMA | {"query_key_norm": "head", "head_size": 12}), WORDS),
    "gemma 2": (
        blocks(
            **LLAMA | {"norm": "rms_offset", "norm_position": "both", "attention_softcap": 3.0},
            window=6, window_layers=(0,), attention_scale=0.3,
        ),
        {"parts": ({"type": "word", "scale": "rounded"},), "layernorm": False},
    ),
    "gemma 3": (
        blocks(
            **LLAMA | {"norm": "rms_offset", "norm_position": "both", "query_key_norm": "head"},
            window=6, window_layers=(0,), window_rotary={"theta": 50.0},
        ),
        {"parts": ({"type": "word", "scale": "rounded"},), "layernorm": False},
    ),
    "embedding gemma": (
        blocks(
            **LLAMA | {"norm": "rms_offset", "norm_position": "both", "mask": "bidirectional"},
            window=6,
        ),
        WORDS,
    ),
    "olmo 2": (
        blocks(**LLAMA | {"norm_position": "output", "query_key_norm": "projection"}), WORDS,
    ),
    "gpt neox": (
        blocks(norm_position="pre", mask="causal", parallel=True, rotary={"share": 0.25}), WORDS,
    ),
    "smollm 3": (blocks(**LLAMA | {"rotary_layers": (1,)}), WORDS),
    "bloom": (
        blocks(norm_position="pre", mask="causal", position_bias={"type": "alibi"}),
        {"parts": ("word",)},
    ),
    "yarn, pairs": (blocks(**LLAMA | {"rotary": {"layout": "pairs", "scaling": YARN}}), WORDS),
    "llama 3": (blocks(**LLAMA | {"rotary": {"scaling": LLAMA3}}), WORDS),
    "t5": (
        blocks(
            norm_position="pre", norm="rms", bias=False, activation="relu", attention_scale=1.0,
            position_bias={"type": "t5", "buckets": 8, "max_distance": 10}, head_size=6,
        ),
        WORDS,
    ),
    "marian": (
        blocks(activation="silu"),
        {
            "parts": (
                {"type": "word", "scale": True}, {"type": "sinusoidalpos", "layout": "halves"},
            ),
            "layernorm": False,
        },
    ),
    "stored waves": (
        blocks(norm_position="pre", final_norm=False),
        {"parts": ("word", {"type": "sinusoidalpos", "stored": True, "spacing": "tensor2tensor"})},
    ),
    "waves by real position": (
        blocks(), {"parts": ("word", {"type": "sinusoidalpos", "offset": 2, "pad_aware": True})},
    ),
    "realformer": (blocks(residual_attention=True, window=9, window_from=1), {}),
    "layer scale, both": (blocks(layer_scale=0.1, norm_position="both"), {}),
    "layer scale, post": (blocks(layer_scale=0.1), {}),
    "narrow gatedcnn": (
        {"type": "gatedcnn", "input_size": 16, "residual_from": "first_layer"},
        {"size": 16, "projection": "none"},
    ),
    "narrow bilstm": ({"type": "bilstm", "input_size": 16}, {"size": 16, "projection": "none"}),
}  # fmt: skip
ALONE = [n for n in FAMILIES if n not in ("narrow bilstm", "deberta v2, grouped convolution")]
"""LSTM layers run text by text; the kernel of grouped convolutions rounds by the length."""


def make(name, spread=0.15):
    encoder, embedding = FAMILIES[name]
    config = model_config(encoder, **TINY, **embedding)
    return config, random_model(config, spread)


def largest(found, expected):
    return np.abs(found - expected).max() / max(1.0, np.abs(expected).max())


def products_of_constants(model):
    """Return the names of all products with a constant weight: each must be a unit."""
    stored = {each.name for each in model.graph.initializer}
    products = ("MatMul", "FusedMatMul", "Gemm", "LSTM")
    nodes = (each for each in model.graph.node if each.op_type in products)
    return [node.name.removesuffix(".fp32") for node in nodes if stored & set(node.input)]


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_equal_those_of_torch(name):
    config, model = make(name)
    batch = ragged_batch()
    expected, real = encoded(model, batch)
    graph = EncoderGraph(config, state_of(model))
    hidden, mask = graph.run(batch)
    assert np.array_equal(mask, real)
    assert largest(hidden[mask], expected[mask]) <= 1e-5
    assert np.isfinite(hidden).all()
    assert products_of_constants(graph.model) == [unit.name for unit in graph.units]


@pytest.mark.parametrize("name", ALONE)
def test_each_text_alone_has_the_same_bits(name):
    """Neither other texts nor padding change a bit of a real position."""
    config, model = make(name)
    graph, batch = EncoderGraph(config, state_of(model), "row_s7"), ragged_batch()
    written = {node.name for node in graph.model.graph.node}
    assert {f"{unit.name}.row_s7" for unit in graph.units} <= written
    together, mask = graph.run(batch)
    for row in range(len(mask)):
        end = int(np.flatnonzero(mask[row])[-1]) + 1
        alone, real = graph.run({key: each[row : row + 1, :end] for key, each in batch.items()})
        assert np.array_equal(alone[real], together[row, :end][real[0]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32", "row_u8"])
@pytest.mark.parametrize("name", ["albert", "deberta v3", "gemma 2", "modernbert", "qwen3", "t5"])
def test_texts_of_every_length_have_the_same_bits_in_one_batch(name, kind):
    config, model = make(name)
    graph, longest = EncoderGraph(config, state_of(model), kind), config.max_position_embeddings
    batch = {
        key: np.random.default_rng(2).integers(0, top, (longest, longest))
        for key, top in (("input_ids", config.vocab_size), ("token_type_ids", 2))
    }
    batch["attention_mask"] = np.tri(longest, dtype=np.int64)
    together, _ = graph.run(batch)
    for row in range(longest):
        end = row + 1
        alone, _ = graph.run({key: each[row : row + 1, :end] for key, each in batch.items()})
        assert np.array_equal(alone[0], together[row, :end]), end


def test_waves_for_long_texts_follow_the_length_of_each_text():
    """Torch's follow the longest text of a batch, so each text is compared alone."""
    config = model_config(blocks(**LLAMA | {"rotary": {"scaling": LONG}}), **TINY, **WORDS)
    model = random_model(config, 0.15)
    graph, batch = EncoderGraph(config, state_of(model)), ragged_batch()
    together, mask = graph.run(batch)
    for row in range(len(mask)):
        end = int(np.flatnonzero(mask[row])[-1]) + 1
        alone = {key: each[row : row + 1, :end] for key, each in batch.items()}
        expected, real = encoded(model, alone)
        assert largest(together[row, :end][real[0]], expected[real]) <= 1e-5


@pytest.mark.parametrize("name", ["deberta v3", "gemma 2", "mpnet", "realformer", "modernbert"])
def test_a_row_of_padding_alone_gives_finite_states(name):
    config, model = make(name)
    batch = ragged_batch()
    batch["attention_mask"][2] = 0
    hidden, mask = EncoderGraph(config, state_of(model)).run(batch)
    assert np.isfinite(hidden).all()
    assert not mask[2].any()


@pytest.mark.parametrize("name", ["albert", "deberta v3", "mpnet", "modernbert"])
def test_the_runtime_executes_each_unit_in_the_kind_of_the_plan(name):
    config, model = make(name)
    state, statement = state_of(model), SentenceEmbedding(pooling=("mean",), max_length=9)
    plan = fully_quant(emit(config, state, statement=statement).units, "row_s7")
    verify(audit(emit(config, state, plan, statement=statement).to_bytes()), plan)


def test_every_option_of_a_block_is_known_to_the_graph():
    """A new option must be written, or refused; then it belongs on one of these lists."""
    refused = {"experts", "mask"}
    no_effect = {
        *("type", "dropout", "activation_dropout", "attention_dropout", "drop_path"),
        *("attention", "bias", "norm_bias", "attention_bias", "feed_forward_bias"),
    }
    written = {
        *("num_layers", "shared_layers", "num_heads", "num_kv_heads", "head_size"),
        *("intermediate_size", "norm_position", "norm", "norm_eps", "activation", "feed_forward"),
        *("attention_scale", "query_key_norm", "attention_softcap", "position_bias", "window"),
        *("layer_scale", "rotary", "rotary_layers", "window_from", "window_layers"),
        *("window_rotary", "first_norm", "final_norm", "convolution", "parallel"),
        "residual_attention",
    }
    assert set(TransformerConfig.model_fields) == refused | no_effect | written


def test_shared_layers_store_each_matrix_once_and_have_units_for_each_use():
    config, model = make("albert")
    graph = EncoderGraph(config, state_of(model))
    names = [unit.name for unit in graph.units]
    assert len(set(names)) == len(names) == 9
    large = [each.name for each in graph.model.graph.initializer if len(each.dims) == 2]
    assert len(large) == 8, large  # three tables, the projection, four of a layer
