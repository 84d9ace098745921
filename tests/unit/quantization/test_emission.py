"""Emitted graphs against torch on ragged batches, alone and together, in float and INT8."""

import numpy as np
import onnx
import pytest
import torch

from orchestrator.errors import InputError
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import Plan, fully_quant
from tests.support.integer_gemm import KIND_NAMES

from .models import HEADS, model_config, ragged_batch, random_model, state_of, torch_answers


def transformer(**options):
    return {"type": "transformer", "num_layers": 2, "num_heads": 4, **options}


MODELS = {
    "bert": model_config(transformer(norm_eps=1e-12)),
    "bert without segments": model_config(transformer(), parts=("word", "pos")),
    "post, causal, tanh gelu": model_config(transformer(mask="causal", activation="gelu_tanh")),
    "post, quick gelu, no bias": model_config(transformer(activation="quick_gelu", bias=False)),
    "post, rms, relu, gated": model_config(
        transformer(norm="rms", activation="relu", feed_forward="gated")
    ),
    "gpt2": model_config(
        transformer(norm_position="pre", mask="causal", activation="gelu_tanh"),
        parts=("word", "pos"),
        layernorm=False,
    ),
    "pre, bidirectional, gelu": model_config(transformer(norm_position="pre")),
    "llama": model_config(
        transformer(
            norm_position="pre",
            norm="rms",
            mask="causal",
            activation="silu",
            feed_forward="gated",
            bias=False,
            num_kv_heads=2,
            rotary={},
        ),
        parts=("word",),
        layernorm=False,
    ),
    "rotary with bias, wide heads": model_config(
        transformer(rotary={"theta": 500.0}, head_size=16, num_kv_heads=1), parts=("word",)
    ),
    "pad-aware positions, scaled words": model_config(
        transformer(),
        parts=({"type": "word", "scale": True}, {"type": "pos", "offset": 2, "pad_aware": True}),
    ),
    "waves": model_config(transformer(), parts=("word", "sinusoidalpos")),
    "waves in halves": model_config(
        transformer(), parts=("word", {"type": "sinusoidalpos", "layout": "halves"})
    ),
    **{cell: model_config({"type": cell}) for cell in ("rnn", "lstm", "gru")},
    **{cell: model_config({"type": cell}) for cell in ("birnn", "bilstm", "bigru")},
    **{
        f"bidirectional {cell}": model_config({"type": cell, "bidirectional": True})
        for cell in ("rnn", "lstm", "gru")
    },
    "gatedcnn": model_config({"type": "gatedcnn"}),
    "gatedcnn, both sides": model_config(
        {"type": "gatedcnn", "mask": "bidirectional", "num_layers": 3, "block_size": 3}
    ),
    "gatedcnn, late residual": model_config(
        {"type": "gatedcnn", "residual_from": "first_layer", "block_size": 1}
    ),
    "gatedcnn, kernel 1": model_config({"type": "gatedcnn", "kernel_size": 1}),
}
SPREAD = dict.fromkeys(("gatedcnn", "gatedcnn, both sides", "gatedcnn, late residual"), 0.1)
INVARIANT = [name for name in MODELS if "rnn" not in name]


def rowwise(model: OnnxModel, batch):
    rows = [
        model.predict({name: values[index : index + 1] for name, values in batch.items()})
        for index in range(len(batch["input_ids"]))
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("name", MODELS)
def test_the_float_graph_equals_torch_on_a_ragged_batch(name):
    config = MODELS[name]
    model = random_model(config, SPREAD.get(name, 0.3))
    batch = ragged_batch()
    expected = torch_answers(model, batch)
    got = OnnxModel.from_bytes(emit(config, state_of(model)).to_bytes(), batch_invariant=True)
    answers = got.predict(batch)
    assert set(answers) == set(expected)
    for key, values in expected.items():
        scale = max(1.0, np.abs(values).max())
        assert np.abs(answers[key] - values).max() / scale <= 1e-5, key


@pytest.mark.parametrize("name", INVARIANT)
def test_answers_are_bitwise_those_of_each_text_alone(name):
    """Neither other texts nor padding change a bit, in float and in each INT8 kind."""
    config = MODELS[name]
    state = state_of(random_model(config, SPREAD.get(name, 0.3)))
    units = emit(config, state).units
    ranges = {unit.name: (-2.0, 3.0) for unit in units}
    batch = ragged_batch()
    for kind in KIND_NAMES:
        plan = Plan({}) if kind == "fp32" else fully_quant(units, kind)
        emitted = emit(config, state, plan, ranges)
        model = OnnxModel.from_bytes(emitted.to_bytes(), batch_invariant=plan.batch_invariant)
        together, alone = model.predict(batch), rowwise(model, batch)
        for key, values in together.items():
            assert np.array_equal(values, alone[key]), (kind, key)


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "llama", "gatedcnn", "bilstm", "bidirectional lstm"]
)
def test_int8_moves_answers_a_little_and_row_u8_least(name):
    config = MODELS[name]
    state = state_of(random_model(config, SPREAD.get(name, 0.3)))
    units, batch = emit(config, state).units, ragged_batch()
    reference = predict(config, state, Plan({}), batch)["embedding"]
    errors = {}
    for kind in ("s7", "row_s7", "row_u8"):
        plan = fully_quant(units, kind)
        moved = predict(config, state, plan, batch)["embedding"]
        errors[kind] = np.linalg.norm(moved - reference) / np.linalg.norm(reference)
    assert all(1e-6 < error < 0.2 for error in errors.values())
    assert errors["row_u8"] <= errors["row_s7"]


def predict(config, state, plan, batch):
    emitted = emit(config, state, plan)
    return OnnxModel.from_bytes(emitted.to_bytes(), batch_invariant=plan.batch_invariant).predict(
        batch
    )


def test_a_calibrated_kind_without_a_range_is_refused():
    config = MODELS["bert"]
    state = state_of(random_model(config))
    plan = fully_quant(emit(config, state).units, "static_s7")
    with pytest.raises(InputError, match="no calibrated range"):
        emit(config, state, plan)


def test_units_are_named_after_modules_and_know_their_shapes():
    config = MODELS["llama"]
    units = {unit.name: unit for unit in emit(config, state_of(random_model(config))).units}
    assert list(units)[:5] == [
        f"encoder.layers.0.{name}"
        for name in (
            "attention.qkv",
            "attention.output",
            "feed_forward.up",
            "feed_forward.gate",
            "feed_forward.down",
        )
    ]
    assert len(units) == 10
    assert units["encoder.layers.1.feed_forward.down"].shape == (192, 48)
    assert units["encoder.layers.1.feed_forward.down"].role == "encoder.layers.*.feed_forward.down"


def test_batch_and_length_are_symbolic_and_the_model_is_valid_onnx():
    config = MODELS["bert"]
    model = emit(config, state_of(random_model(config))).model
    shapes = [
        [dimension.dim_param for dimension in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    ]
    assert shapes == [["batch", "length"]] * 3
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}
    assert onnx.load_from_string(model.SerializeToString()).graph.node


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_refused(poison):
    config = MODELS["bert"]
    model = random_model(config)
    with torch.no_grad():
        model.get_parameter("encoder.layers.1.feed_forward.down.weight")[3, 4] = poison
    with pytest.raises(InputError, match=r"encoder.layers.1.feed_forward.down.weight.*1 values"):
        emit(config, state_of(model), Plan({}))


def test_missing_and_additional_parameters_are_refused():
    config = MODELS["bert"]
    state = state_of(random_model(config))
    with pytest.raises(InputError, match=r"encoder\.extra"):
        emit(config, state | {"encoder.extra": np.zeros(2, np.float32)})
    del state["encoder.layers.0.norm1.weight"]
    with pytest.raises(InputError, match=r"encoder\.layers\.0\.norm1\.weight"):
        emit(config, state)


def test_a_language_model_head_is_left_out():
    config = model_config(transformer(), heads=({"type": "mlm"}, HEADS[0]))
    answers = predict(config, state_of(random_model(config)), Plan({}), ragged_batch())
    assert set(answers) == {"mean", "embedding"}


def test_an_int8_word_table_is_a_quarter_as_large_and_each_value_within_half_a_step():
    config = model_config({"type": "transformer", "num_layers": 1, "num_heads": 4})
    config = config.model_copy(update={"vocab_size": 2000})
    model = random_model(config)
    state = state_of(model)
    plain, small = emit(config, state), emit(config, state, Plan({}, tables="int8"))
    saved = len(plain.to_bytes()) - len(small.to_bytes())
    table = state["embedding.word.weight"]
    assert 0.9 * table.nbytes * 3 / 4 < saved < table.nbytes * 3 / 4
    values = {t.name: onnx.numpy_helper.to_array(t) for t in small.model.graph.initializer}
    restored = values["embedding.word.quantized"] * values["embedding.word.scale"]
    half = np.abs(table).max(axis=1, keepdims=True) / 127 / 2
    assert (np.abs(restored - table) <= half * 1.001).all()
    batch, rounded = ragged_batch(), {**state, "embedding.word.weight": restored}
    expected = OnnxModel.from_bytes(emit(config, rounded).to_bytes(), batch_invariant=True)
    got = OnnxModel.from_bytes(small.to_bytes(), batch_invariant=True)
    for name, answer in expected.predict(batch).items():
        np.testing.assert_allclose(got.predict(batch)[name], answer, rtol=1e-5, atol=1e-5)
