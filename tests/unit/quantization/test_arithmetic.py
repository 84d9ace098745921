"""Rules of the runtime's arithmetic: true ones pass, each wrong one is refused in one line."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import InputError
from orchestrator.quantization.backends.hosts import this_host
from orchestrator.quantization.backends.onnxruntime_cpu import arithmetic
from orchestrator.quantization.backends.onnxruntime_cpu.arithmetic import (
    FULL_RANGE,
    METADATA_RULES,
    ROW_SCALES,
    check_rules,
    follows,
)
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import fully_quant

from .models import model_config, ragged_batch, random_model, state_of

CONFIG = model_config({"type": "transformer", "num_layers": 1, "num_heads": 4})


def exact(_, feed):
    sums = (feed["x"].astype(np.int64) - 128) @ arithmetic.weight().astype(np.int64)
    return [(sums * feed["a"]).astype(np.float32)]


def scale_per_column(_, feed):
    """A runtime that reads [B, S, 1] as a vector over the outputs where it has their number."""
    scale = feed["a"]
    if scale.size == 16:
        scale = scale.reshape(16)
    sums = (feed["x"].astype(np.int64) - 128) @ arithmetic.weight().astype(np.int64)
    return [(sums * scale).astype(np.float32)]


def saturating(_, feed):
    """AVX2 without VNNI: two products are summed in 16 bits."""
    x, weight = feed["x"].astype(np.int64), arithmetic.weight().astype(np.int64)
    pairs = x[..., 0::2, None] * weight[0::2] + x[..., 1::2, None] * weight[1::2]
    sums = np.clip(pairs, -32768, 32767).sum(axis=-2) - 128 * weight.sum(axis=0)
    return [(sums * feed["a"]).astype(np.float32)]


def refusing(_, feed):
    raise arithmetic.states.InvalidArgument("Attempting to broadcast an axis")


@pytest.mark.parametrize(
    ("run", "row_scales", "full_range"),
    [
        (exact, True, True),
        (scale_per_column, False, False),
        (saturating, True, False),
        (refusing, False, False),
    ],
)
def test_each_way_of_being_wrong_is_seen(run, row_scales, full_range):
    assert follows(run, ROW_SCALES) is row_scales
    assert follows(run, FULL_RANGE) is full_range


def test_this_runtime_keeps_what_detection_says():
    assert arithmetic.keeps(ROW_SCALES)
    assert arithmetic.keeps(FULL_RANGE) or not this_host().sums_bytes_exactly


def test_a_session_is_refused_only_if_its_model_relies_on_the_broken_rule(monkeypatch):
    state = state_of(random_model(CONFIG))
    units = emit(CONFIG, state).units
    rows = emit(CONFIG, state, fully_quant(units, "row_s7"))
    calls = emit(CONFIG, state, fully_quant(units, "s7"))
    batch = ragged_batch()
    OnnxModel.from_bytes(rows.to_bytes(), batch_invariant=True).predict(batch)
    monkeypatch.setattr(arithmetic, "keeps", lambda rule: False)
    OnnxModel.from_bytes(calls.to_bytes(), batch_invariant=True).predict(batch)
    with pytest.raises(
        InputError, match=r"one activation scale per row. Install onnxruntime 1\.32"
    ):
        OnnxModel.from_bytes(rows.to_bytes(), batch_invariant=True)
    with pytest.raises(InputError, match="saturates products with full-range signed weights"):
        check_rules({METADATA_RULES: FULL_RANGE}, "model.onnx")


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="rule 'four_bits'; this release knows row_scales"):
        check_rules({METADATA_RULES: "four_bits"}, "model.onnx")


def test_the_stored_model_is_this_one():
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "w", "a", "s", "m", "z"], ["y"], domain="com.microsoft"
    )
    values = {
        "x": (TensorProto.UINT8, ["b", "l", 64]),
        "a": (TensorProto.FLOAT, ["b", "l", 1]),
        "y": (TensorProto.FLOAT, ["b", "l", 16]),
    }
    x, a, y = (helper.make_tensor_value_info(name, *value) for name, value in values.items())
    constants = {
        "w": arithmetic.weight(),
        "s": np.ones(16, np.float32),
        "m": np.asarray(128, np.uint8),
        "z": np.zeros(16, np.int8),
    }
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "g", [x, a], [y], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    expected = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="")
    assert expected.SerializeToString() == arithmetic.MODEL
