"""The INT8 LSTM operator against its arithmetic in NumPy, and where AVX2 saturates."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.plans import Plan
from tests.support.integer_gemm import gemm_reference

WIDTH, HIDDEN, STEPS = 24, 16, 9


def run_lstm(kind, x, inputs, recurrent, bias, threads=1):
    """One forward layer over x [S, B, K], fed as a float input."""
    graph = GraphBuilder(Plan({"lstm": kind}))
    lengths = graph.input("lengths", ["b"])
    constant = graph.constant("bias", bias[None])
    weights = (inputs[None], recurrent[None], constant)
    value = graph.lstm("lstm", "x", lengths, weights, direction="forward", hidden_size=HIDDEN)
    graph.output("y", value, ["s", 1, "b", HIDDEN])
    model = graph.model()
    shape = ["s", "b", x.shape[2]]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options)
    feed = {"x": x, "lengths": np.full(x.shape[1], len(x), np.int32)}
    return session.run(None, feed)[0][:, 0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def reference(kind, x, inputs, recurrent, bias, answers):
    """Equations of ONNX LSTM (gates i o f c), the two products in the arithmetic of the kind.

    The recurrent product reads the operator's own previous answers: a difference of 1e-7 there can
    move an activation to the next INT8 step, which says nothing about the arithmetic.
    """
    steps, batch, width = x.shape
    projected = gemm_reference(x.reshape(-1, width), np.ascontiguousarray(inputs.T), kind)
    projected = projected.reshape(steps, batch, -1)
    previous = np.concatenate([np.zeros((1, batch, HIDDEN), np.float32), answers[:-1]])
    cell = np.zeros((batch, HIDDEN))
    outputs = []
    for step in range(steps):
        back = gemm_reference(previous[step], np.ascontiguousarray(recurrent.T), kind)
        gates = projected[step] + back + bias[: 4 * HIDDEN] + bias[4 * HIDDEN :]
        enter, leave, forget, new = np.split(gates, 4, axis=1)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        outputs.append(sigmoid(leave) * np.tanh(cell))
    return np.stack(outputs)


def parameters(rng):
    return (
        rng.standard_normal((4 * HIDDEN, WIDTH)).astype(np.float32) * 0.3,
        rng.standard_normal((4 * HIDDEN, HIDDEN)).astype(np.float32) * 0.3,
        rng.standard_normal(8 * HIDDEN).astype(np.float32),
    )


@pytest.mark.parametrize("kind", ["fp32", "s7"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_operator_computes_the_lstm_equations(kind, batch):
    rng = np.random.default_rng(2)
    inputs, recurrent, bias = parameters(rng)
    x = rng.standard_normal((STEPS, batch, WIDTH)).astype(np.float32)
    got = run_lstm(kind, x, inputs, recurrent, bias)
    expected = reference(kind, x, inputs, recurrent, bias, got)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    if kind == "s7":
        in_float = reference("fp32", x, inputs, recurrent, bias, got)
        assert not np.allclose(got, in_float, atol=1e-3)


def test_a_text_alone_does_not_depend_on_the_number_of_threads():
    """With a batch it does (texts that share a thread share a range): why s7 runs row by row."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((STEPS, 3, WIDTH)).astype(np.float32)
    weights = parameters(rng)
    alone = [run_lstm("s7", x[:, :1], *weights, threads=threads) for threads in (1, 2)]
    assert np.array_equal(*alone)
    together = run_lstm("s7", x, *weights)
    assert not np.array_equal(together[:, :1], alone[0])


def test_ones_do_not_saturate():
    """K = 384 products of largest by largest value: the gate must see 384, not half of it."""
    width, scale = 384, 1 / 384
    inputs = np.full((4 * HIDDEN, width), scale, np.float32)
    recurrent = np.zeros((4 * HIDDEN, HIDDEN), np.float32)
    x = np.ones((1, 2, width), np.float32)
    got = run_lstm("s7", x, inputs, recurrent, np.zeros(8 * HIDDEN, np.float32))
    expected = sigmoid(np.float32(1)) * np.tanh(sigmoid(np.float32(1)) * np.tanh(1))
    np.testing.assert_allclose(got, expected, atol=1e-4)
