"""Calibrators: ranges equal the extremes of torch's own layers on the real tokens of each text."""

import numpy as np
import pytest
import torch

from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.calibrators.calibrator import make_calibrator
from orchestrator.quantization.calibrators.histogram import Histogram
from orchestrator.quantization.calibrators.max import MaxCalibrator
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.kinds import unsigned_range
from orchestrator.quantization.measures import encode
from orchestrator.quantization.registries import CALIBRATORS

from .models import model_config, ragged_batch, random_model, state_of

LAYERS = {
    "attention.qkv": "attention.query",
    "attention.output": "attention.output",
    "feed_forward.up": "feed_forward.up",
    "feed_forward.down": "feed_forward.down",
}


def calibrated(config, state, texts):
    observed = emit(config, state, observe=True).to_bytes()
    model = OnnxModel.from_bytes(observed, batch_invariant=False)
    return MaxCalibrator(MaxCalibrator.Config()).ranges(model, texts)


@pytest.mark.parametrize("position", ["post", "pre"])
def test_ranges_are_those_of_torch_at_real_positions(position):
    """Padding is behind, before and between the tokens; none of it is observed."""
    config = model_config(
        {"type": "transformer", "num_layers": 2, "num_heads": 4, "norm_position": position}
    )
    model, batch = random_model(config), ragged_batch()
    texts = encode([batch], np.arange(6))
    found = calibrated(config, state_of(model), texts)

    expected = {}
    real = torch.from_numpy(batch["attention_mask"] != 0)
    for layer in range(2):
        for unit, module in LAYERS.items():
            name = f"encoder.layers.{layer}.{unit}"
            expected[name] = [np.inf, -np.inf]
            watched = model.get_submodule(f"encoder.layers.{layer}.{module}")
            watch(watched, expected[name], real)
    with torch.no_grad():
        model.encode({name: torch.from_numpy(values) for name, values in batch.items()})
    assert set(found) == set(expected)
    for name, bounds in expected.items():
        np.testing.assert_allclose(found[name], bounds, rtol=1e-4, atol=1e-5, err_msg=name)


def watch(module, bounds, real):
    def hook(_, inputs):
        values = inputs[0][real]
        bounds[0] = min(bounds[0], float(values.min()))
        bounds[1] = max(bounds[1], float(values.max()))

    module.register_forward_pre_hook(hook)


def test_layers_that_are_not_gemms_have_no_range():
    config = model_config({"type": "bilstm", "num_layers": 1})
    state = state_of(random_model(config))
    texts = encode([ragged_batch()], np.arange(6))
    assert calibrated(config, state, texts) == {}


def histogram(values):
    counts, edges = np.histogram(values, 4096)
    return Histogram(edges, counts.astype(float))


def clipped(name, values, **options):
    config = CALIBRATORS.config_class(name)(**options)
    return make_calibrator(config).clip(histogram(values))


def squared_error(values, bounds):
    scale, zero = unsigned_range(*bounds)
    steps = np.clip(np.rint(values / scale) + zero, 0, 255) - zero
    return float(((steps * scale - values) ** 2).mean())


@pytest.mark.parametrize("skew", [False, True])
def test_each_calibrator_clips_a_rare_outlier_and_mse_is_best(skew):
    values = np.random.default_rng(0).standard_normal(400_000)
    values = np.concatenate([np.abs(values) - 0.17 if skew else values, [12.0]])
    full = (values.min(), values.max())
    errors = {"max": squared_error(values, full)}
    for name in ("percentile", "mse", "entropy"):
        low, high = clipped(name, values)
        assert full[0] <= low <= 0 < high < 0.8 * full[1], name
        errors[name] = squared_error(values, (low, high))
    assert min(errors, key=errors.get) == "mse"


def test_mse_is_within_a_percent_of_the_best_of_all_ranges():
    values = np.random.default_rng(1).laplace(size=100_000)
    best = min(
        squared_error(values, (-low, high))
        for low in np.linspace(3, 14, 23)
        for high in np.linspace(3, 14, 23)
    )
    assert squared_error(values, clipped("mse", values)) < 1.01 * best


def test_a_percentile_of_100_is_max_and_others_leave_out_their_share():
    values = np.random.default_rng(2).uniform(-1, 3, 100_000)
    assert clipped("percentile", values, percentile=100) == (values.min(), values.max())
    low, high = clipped("percentile", values, percentile=99)
    outside = (values < low).mean(), (values > high).mean()
    np.testing.assert_allclose(outside, 0.01, atol=5e-4)


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_a_calibrator_runs_on_a_model_and_never_widens_a_range(name):
    config = model_config({"type": "transformer", "num_layers": 1, "num_heads": 4})
    state = state_of(random_model(config))
    texts = encode([ragged_batch()], np.arange(6))
    model = OnnxModel.from_bytes(
        emit(config, state, observe=True).to_bytes(), batch_invariant=False
    )
    widest = calibrated(config, state, texts)
    found = make_calibrator(CALIBRATORS.config_class(name)()).ranges(model, texts)
    assert found.keys() == widest.keys()
    for unit, (low, high) in found.items():
        assert widest[unit][0] <= low < high <= widest[unit][1] + 1e-6
