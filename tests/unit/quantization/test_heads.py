"""Heads of every layout against torch, rows without a real token, and answers to the last bit."""

import numpy as np
import pytest
import torch

from orchestrator.inference.models import TorchModel
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.emission.outputs.vectors import SENTENCE
from orchestrator.quantization.plans import Plan, fully_quant
from tests.support.integer_gemm import KIND_NAMES

from .models import VOCABULARY, model_config, ragged_batch, random_model, state_of, torch_answers

ENCODER = {"type": "transformer", "num_layers": 1, "num_heads": 2}
TRANSFORM = {"activation": "gelu", "norm_eps": 1e-5}
BARE = {"activation": "silu", "bias": False, "norm_eps": 1e-6, "norm_bias": False}


def cls(**options):
    return {"type": "cls", "num_labels": 3, **options}


HEADS = {
    **{how: cls(pooling=how) for how in ("mean", "first", "last", "max", "rest", "first_rest")},
    "second": cls(pooling="second"),
    "last_token": cls(pooling="last_token"),
    "norm": cls(norm_eps=1e-6),
    "tanh": cls(hidden=True),
    "relu": cls(hidden=True, hidden_activation="relu"),
    "gelu": cls(hidden=True, hidden_activation="gelu"),
    "narrow": cls(hidden=True, hidden_activation="none", hidden_size=7),
    "no_bias": cls(output_bias=False),
    "transform": cls(transform=TRANSFORM),
    "bare_transform": cls(transform=BARE, pooling="first"),
    "no_norm": cls(transform={"activation": "quick_gelu"}, pooling="max"),
    "late": cls(transform={"activation": "gelu_tanh", "norm_eps": 1e-5}, pools_last=True),
    "flags": {"type": "multilabel", "num_labels": 5},
    "numbers": {"type": "regression", "num_labels": 2, "norm_eps": 1e-12},
    **{kind: {"type": kind} for kind in ("sp", "nsp", "sop", "itm")},
    "rank": {"type": "itm", "rank": True},
    "choice": {"type": "choice"},
    "choice_relu": {"type": "choice", "hidden_activation": "relu", "pooling": "mean"},
    "choice_transform": {"type": "choice", "hidden": False, "transform": TRANSFORM},
    "near": {"type": "similarity"},
    "near_projected": {"type": "similarity", "projection_size": 9, "pooling": "last"},
    "tags": {"type": "tags", "num_labels": 4},
    "tags_transform": {"type": "tags", "num_labels": 4, "transform": BARE},
    "span": {"type": "span"},
    "span_transform": {"type": "span", "transform": TRANSFORM},
    "frames": {"type": "ctc"},
    "words": {"type": "prompt", "words": (("a",), ("b", "c"), ("d",)), "mask_token": 7},
    "plain_words": {
        "type": "prompt",
        "words": (("a", "b"), ("c",)),
        "mask_token": 9,
        "transform": False,
        "bias": False,
    },
}
VECTORS = {
    "projection": {"projection_size": 9},
    "norm": {"norm_eps": 1e-5, "pooling": "first"},
    "all": {
        "hidden": True,
        "norm_eps": 1e-5,
        "projection_size": 5,
        "projection_bias": True,
        "pooling": "max",
    },
    "attention": {"attention": {"num_heads": 3, "intermediate_size": 20}},
}
STATEMENTS = {
    mode: SentenceEmbedding(pooling=(mode,), max_length=64)
    for mode in ("mean", "mean_sqrt_len_tokens", "weightedmean", "max", "cls", "lasttoken")
}


def named(heads):
    return tuple({"name": name, **head} for name, head in heads.items())


@pytest.fixture(scope="module")
def everything():
    """All heads on one encoder: the batch, what torch answers, and what the graph answers."""
    config = model_config(ENCODER, heads=named(HEADS))
    model = random_model(config)
    batch = ragged_batch()
    batch["input_ids"][:, ::4] = 0  # padding tokens that the mask has as real ones
    graph = OnnxModel.from_bytes(emit(config, state_of(model)).to_bytes(), batch_invariant=True)
    return batch, torch_answers(model, batch), graph.predict(batch)


@pytest.mark.parametrize("name", HEADS)
def test_every_layout_equals_torch(everything, name):
    batch, expected, found = everything
    assert found[name].shape == expected[name].shape
    difference = np.abs(found[name] - expected[name])
    if difference.ndim == 3:
        difference *= batch["attention_mask"][..., None]
    assert difference.max() / max(1.0, np.abs(expected[name]).max()) <= 1e-5


@pytest.mark.parametrize("name", VECTORS)
def test_a_head_that_makes_the_embedding_equals_torch(name):
    config = model_config(ENCODER, heads=({"type": "vector", **VECTORS[name]}, {"type": "mlm"}))
    model, batch = random_model(config), ragged_batch()
    graph = OnnxModel.from_bytes(emit(config, state_of(model)).to_bytes(), batch_invariant=True)
    found = graph.predict(batch)
    expected = TorchModel(model).run(batch, ["embedding"])["embedding"]
    assert set(found) == {"embedding"}
    np.testing.assert_allclose(found["embedding"], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [(), ({"type": "mlm"},), ({"type": "vector", "hidden": True},)])
def test_a_body_answers_with_the_mean_over_its_tokens(heads):
    config = model_config(ENCODER, heads=heads)
    model, batch = random_model(config), ragged_batch()
    graph = OnnxModel.from_bytes(emit(config, state_of(model)).to_bytes(), batch_invariant=True)
    found = graph.predict(batch)
    assert set(found) == {"embedding"}
    expected = TorchModel(model).run(batch, ["embedding"])["embedding"]
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)


POOLED = [*HEADS][: [*HEADS].index("tags")]
"""Heads that read one vector per sequence."""


def test_a_row_without_a_real_token_gives_zeros_and_no_nan():
    config = model_config(ENCODER, heads=(*named(HEADS), {"type": "similarity", "name": "v"}))
    config = config.with_targets(t for t in config.target if t.name != "second")
    model = random_model(config)
    graph = OnnxModel.from_bytes(emit(config, state_of(model)).to_bytes(), batch_invariant=True)
    mask = np.asarray([[1, 1, 1], [0, 0, 0]], np.int32)
    feed = {"input_ids": np.full((2, 3), 6, np.int32), "attention_mask": mask}
    feed["token_type_ids"] = mask * 0
    found = dict(zip(graph.outputs, graph.session.run(None, feed), strict=True))
    assert all(np.isfinite(values).all() for values in found.values())
    for name in ("embedding", "logits.v"):
        assert not found[name][1].any()
        assert found[name][0].all()
    for how in ("mean", "first", "last", "max", "rest", "first_rest", "last_token"):
        bias = model.get_parameter(f"targets.{how}.output.bias").detach().numpy()
        assert np.array_equal(found[f"logits.{how}"][1], bias), how
    for mode, statement in STATEMENTS.items():
        vector = emit(config.with_targets(()), body(model), statement=statement)
        empty = OnnxModel.from_bytes(vector.to_bytes(), batch_invariant=True)
        (found,) = empty.session.run(None, feed)
        assert not found[1].any(), mode
        assert found[0].all(), mode


def body(model):
    return {n: v for n, v in state_of(model).items() if not n.startswith("targets.")}


def rows_of(rng, lengths, width):
    """Random texts of these lengths, padded to a width."""
    mask = (np.arange(width) < np.asarray(lengths)[:, None]).astype(np.int64)
    return {
        "input_ids": rng.integers(5, VOCABULARY, mask.shape) * mask,
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape) * mask,
    }


LONGEST = 64
BITWISE = {name: head for name, head in HEADS.items() if name not in ("second", "frames")}


SLOW = pytest.mark.slow
QUICK = [
    pytest.param(kind, marks=() if kind in ("fp32", "row_s7") else SLOW) for kind in KIND_NAMES
]


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("width", [48, pytest.param(40, marks=SLOW)])
def test_no_bit_depends_on_batch_mates_or_padding(kind, width):
    """Texts of 1 to 64 tokens: alone, all together, and with random others and padding."""
    heads = (
        *named(BITWISE),
        {"type": "vector", **VECTORS["attention"], "attention": {"num_heads": 2}},
    )
    base = model_config(ENCODER, heads=heads, width=width)
    config = base.model_copy(update={"max_position_embeddings": LONGEST + 8})
    state = state_of(random_model(config))
    units = emit(config, state).units
    plan = Plan({}) if kind == "fp32" else fully_quant(units, kind)
    ranges = {unit.name: (-2.0, 3.0) for unit in units}
    graph = emit(config, state, plan, ranges).to_bytes()
    assert_same_bits(OnnxModel.from_bytes(graph, batch_invariant=plan.batch_invariant))


@pytest.mark.parametrize("mode", STATEMENTS)
def test_no_bit_of_a_stated_vector_depends_on_batch_mates_or_padding(mode):
    layers = [
        {"type": "dense", "in_features": 48, "out_features": 9},
        {"type": "normalize"},
    ]
    statement = SentenceEmbedding(pooling=(mode,), layers=layers, max_length=64)
    torch.manual_seed(0)
    embedder = SentenceEmbedder(statement).eval()
    config = model_config(ENCODER, heads=())
    config = config.model_copy(update={"max_position_embeddings": LONGEST + 8})
    state = state_of(random_model(config))
    state |= {f"{SENTENCE}{name}": each.numpy() for name, each in embedder.state_dict().items()}
    graph = emit(config, state, statement=statement).to_bytes()
    assert_same_bits(OnnxModel.from_bytes(graph, batch_invariant=True))


def assert_same_bits(model):
    rng = np.random.default_rng(5)
    lengths = np.arange(1, LONGEST + 1)
    texts = rows_of(rng, lengths, LONGEST)
    alone = []
    for row, length in enumerate(lengths):
        text = {name: values[row : row + 1, :length] for name, values in texts.items()}
        alone.append(model.predict(text))
    batches = [(np.arange(LONGEST), LONGEST), (np.arange(LONGEST), LONGEST + 5)]
    for _ in range(12):
        rows = rng.permutation(LONGEST)[: rng.integers(2, 9)]
        batches.append((rows, int(lengths[rows].max() + rng.integers(0, 8))))
    for rows, width in batches:
        batch = {
            name: np.pad(values, ((0, 0), (0, 8)))[rows, :width] for name, values in texts.items()
        }
        # a last row of full width: without it the columns of padding would not be run
        batch = {name: np.concatenate([v, np.ones_like(v[:1])]) for name, v in batch.items()}
        for name, values in model.predict(batch).items():
            for place, row in enumerate(rows):
                found = values[place]
                if values.ndim == 3:
                    found = found[: lengths[row]]
                assert np.array_equal(found, alone[row][name][0]), (name, lengths[row], width)
