"""Every kind against NumPy integer arithmetic, where AVX2 saturates, and row by row."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from orchestrator.errors import InputError
from orchestrator.modeling.layers.feed_forward import ACTIVATIONS
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.kinds import (
    LOWEST,
    quantize_signed,
    quantize_unsigned,
    quantize_weight,
)
from orchestrator.quantization.plans import Plan
from tests.support.integer_gemm import KIND_NAMES, dequantized, gemm_reference

INTEGER_KINDS = tuple(kind for kind in KIND_NAMES if kind != "fp32")
ROW_KINDS = tuple(kind for kind in INTEGER_KINDS if kind != "s7")


def gemm_session(weight: np.ndarray, kind: str, bounds=None, **more) -> ort.InferenceSession:
    """A session that multiplies a float input [M, K], fed through an int32 identity gather."""
    graph = GraphBuilder(Plan({"unit": kind}), {"unit": bounds or (-3.0, 3.0)})
    rows = graph.input("rows", ["m"])
    table = graph.constant("table", np.zeros((1, weight.shape[0]), np.float32))
    value = graph.gemm("unit", graph.op("Gather", [table, rows], axis=0), weight, **more)
    graph.output("y", value, ["m", weight.shape[1]])
    model = graph.model()
    # the table is replaced by a float input: initializers may be overridden by inputs
    info = ort_value_info(weight.shape[0])
    model.graph.input.append(info)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def ort_value_info(width: int):
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info("table", TensorProto.FLOAT, ["n", width])


def run_gemm(session: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    return session.run(None, {"rows": np.arange(len(x), dtype=np.int32), "table": x})[0]


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("shape", [(1, 96, 7), (33, 128, 96), (64, 97, 130), (48, 96, 48)])
def test_the_runtime_computes_what_the_reference_computes(kind, shape):
    rng = np.random.default_rng(3)
    m, k, n = shape
    x = (rng.standard_normal((m, k)) * rng.uniform(0.1, 3, (m, 1))).astype(np.float32)
    weight = rng.standard_normal((k, n)).astype(np.float32)
    bounds = (-1.25, 2.5)  # some activations lie outside
    got = run_gemm(gemm_session(weight, kind, bounds), x)
    expected = gemm_reference(x, weight, kind, bounds if kind.startswith("static") else None)
    if kind == "fp32":
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_constant_rows_do_not_saturate(kind, sign):
    """ones x ones is the worst case of vpmaddubsw: full-range s8 gives 194 or 3 instead of 384."""
    ones = np.ones((8, 384), np.float32)
    weight = np.ascontiguousarray(ones.T) * sign
    got = run_gemm(gemm_session(weight, kind, (0.0, 1.0)), ones)
    np.testing.assert_allclose(got, 384.0 * sign, rtol=1e-4)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_the_error_is_that_of_eight_or_seven_bits(kind):
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((64, 256)), rng.standard_normal((256, 64))
    exact = x @ weight
    error = gemm_reference(x.astype(np.float32), weight.astype(np.float32), kind) - exact
    relative = np.linalg.norm(error) / np.linalg.norm(exact)
    assert 1e-4 < relative < 0.03


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_row_does_not_depend_on_the_other_rows(kind):
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((17, 96)) * np.geomspace(1e-3, 1e3, 17)[:, None]).astype(np.float32)
    session = gemm_session(rng.standard_normal((96, 40)).astype(np.float32), kind)
    together = run_gemm(session, x)
    alone = np.concatenate([run_gemm(session, row[None]) for row in x])
    np.testing.assert_array_equal(together, alone)


def test_one_range_a_tensor_does_depend_on_them():
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((17, 96)) * np.geomspace(1e-3, 1e3, 17)[:, None]).astype(np.float32)
    session = gemm_session(rng.standard_normal((96, 40)).astype(np.float32), "s7")
    assert not np.array_equal(run_gemm(session, x)[:1], run_gemm(session, x[:1]))


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_zero_rows_and_zero_columns_stay_zero(kind):
    weight = np.zeros((16, 3), np.float32)
    weight[:, 1] = 2.0
    x = np.zeros((4, 16), np.float32)
    x[1] = 1.0
    got = run_gemm(gemm_session(weight, kind, (0.0, 1.0)), x)
    expected = x @ weight
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_quantized_weights_stay_in_their_range_and_near_the_weight():
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((64, 8)).astype(np.float32) + np.arange(8, dtype=np.float32)
    signed, unsigned = quantize_signed(weight), quantize_unsigned(weight)
    assert np.abs(signed.values).max() == 63
    assert np.abs(dequantized(signed) - weight).max() <= signed.scale.max() / 2 * 1.001
    assert np.abs(dequantized(unsigned) - weight).max() <= unsigned.scale.max() * 1.001
    assert unsigned.scale.max() < signed.scale.max()


def test_fp32_has_no_quantized_weight():
    with pytest.raises(ValueError, match="float"):
        quantize_weight(np.ones((2, 2), np.float32), "fp32")


def test_a_plan_for_another_model_is_refused():
    graph = GraphBuilder(Plan({"elsewhere": "row_s7"}))
    with pytest.raises(InputError, match="elsewhere"):
        graph.model()


@pytest.mark.parametrize("kind", [kind for kind in ROW_KINDS if kind.startswith("row")])
@pytest.mark.parametrize("low", [0.0, -0.17])
def test_a_known_lower_bound_gives_twice_the_steps(kind, low):
    """Outputs of an activation function: the bound holds, and the error halves."""
    rng = np.random.default_rng(13)
    x = np.maximum(rng.standard_normal((33, 128)) * rng.uniform(1, 3, (33, 1)), low)
    x, weight = x.astype(np.float32), rng.standard_normal((128, 24)).astype(np.float32)
    got = run_gemm(gemm_session(weight, kind, low=low), x)
    np.testing.assert_array_equal(got, gemm_reference(x, weight, kind, low=low))
    exact = x @ dequantized(quantize_weight(weight, kind))
    without = run_gemm(gemm_session(weight, kind), x)
    assert np.linalg.norm(got - exact) < 0.65 * np.linalg.norm(without - exact)


@pytest.mark.parametrize("name", sorted(LOWEST))
def test_the_lower_bound_of_each_activation_holds_and_is_close(name):
    x = torch.linspace(-8, 8, 200_001)
    smallest = float(ACTIVATIONS[name](x).min())
    assert LOWEST[name] <= smallest <= LOWEST[name] + 2e-4


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_bias_is_in_the_product_or_left_to_the_next_node(kind):
    rng = np.random.default_rng(17)
    x, weight = rng.standard_normal((5, 64)), rng.standard_normal((64, 24))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    bias = rng.standard_normal(24).astype(np.float32)
    graph = GraphBuilder(Plan({"unit": kind}), {"unit": (-3.0, 3.0)})
    _, rest = graph.linear("unit", graph.input("x", ["m", 64]), weight, bias)
    assert (rest is bias) is (kind == "fp32" or kind.startswith("row"))
    if rest is None:
        got = run_gemm(gemm_session(weight, kind, bias=bias), x)
        expected = run_gemm(gemm_session(weight, kind), x) + bias
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
