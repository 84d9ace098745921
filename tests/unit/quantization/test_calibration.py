"""Calibrators: ranges equal the extremes of torch's own layers on the real tokens of each text."""

import numpy as np
import pytest
import torch

from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.calibrators.max import MaxCalibrator
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.measures import encode

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
def test_ranges_are_those_of_torch_without_padding(position):
    config = model_config(
        {"type": "transformer", "num_layers": 2, "num_heads": 4, "norm_position": position}
    )
    model, batch = random_model(config), ragged_batch()
    rows = [0, 1, 2, 4]  # padded on the right: alone and cut they have no padding
    batch = {name: values[rows] for name, values in batch.items()}
    texts = encode([batch], np.arange(len(rows)), np.zeros(len(rows)))
    found = calibrated(config, state_of(model), texts)

    expected = {}
    for layer in range(2):
        for unit, module in LAYERS.items():
            name = f"encoder.layers.{layer}.{unit}"
            expected[name] = [np.inf, -np.inf]
            watch(model.get_submodule(f"encoder.layers.{layer}.{module}"), expected[name])
    for row in range(len(rows)):
        length = int(batch["attention_mask"][row].sum())
        text = {k: torch.from_numpy(v[row : row + 1, :length]) for k, v in batch.items()}
        with torch.no_grad():
            model.encode(text)
    assert set(found) == set(expected)
    for name, bounds in expected.items():
        np.testing.assert_allclose(found[name], bounds, rtol=1e-4, atol=1e-5, err_msg=name)


def watch(module, bounds):
    def hook(_, inputs):
        bounds[0] = min(bounds[0], float(inputs[0].min()))
        bounds[1] = max(bounds[1], float(inputs[0].max()))

    module.register_forward_pre_hook(hook)


def test_layers_that_are_not_gemms_have_no_range():
    config = model_config({"type": "bilstm", "num_layers": 1})
    state = state_of(random_model(config))
    texts = encode([ragged_batch()], np.arange(6), np.zeros(6))
    assert calibrated(config, state, texts) == {}
