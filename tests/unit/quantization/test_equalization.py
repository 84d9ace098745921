"""Equalization: exact in float for post- and pre-norm, and refused where it would not be."""

import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.calibrators.calibrator import channel_extremes
from orchestrator.quantization.emission.equalization import equalizable
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.measures import encode
from orchestrator.quantization.plans import Plan, PlanFile, fully_quant
from orchestrator.quantization.source import Source

from .models import model_config, ragged_batch, random_model, state_of, torch_answers

ENCODERS = {
    "post": {},
    "pre": {"norm_position": "pre"},
    "pre, rms, gated, rotary": {
        "norm_position": "pre",
        "norm": "rms",
        "feed_forward": "gated",
        "rotary": {},
        "num_kv_heads": 2,
    },
    "post, no bias": {"bias": False},
}


def observed(config, state):
    texts = encode([ragged_batch()], np.arange(6))
    model = emit(config, state, observe=True).to_bytes()
    return channel_extremes(OnnxModel.from_bytes(model, batch_invariant=False), texts)


def make(encoder, **embedding):
    config = model_config({"type": "transformer", "num_layers": 3, "num_heads": 4, **encoder})
    model = random_model(config, spread=0.15)
    state = state_of(model)
    for name, values in state.items():  # channels of very different width, off zero
        if "norm" in name and name.startswith(("encoder.layers", "embedding")):
            values[:3] *= 20 if name.endswith("bias") else 3
    channels = observed(config, state)
    return config, model, Source(config.model_dump(mode="json"), state, channels=channels)


def answers(source, plan):
    return OnnxModel.from_bytes(source.emit(plan).to_bytes(), batch_invariant=True)


@pytest.mark.parametrize("name", ENCODERS)
def test_float_answers_stay_those_of_torch(name):
    config, model, source = make(ENCODERS[name])
    chosen = tuple(each.norm for each in equalizable(config))
    assert len(chosen) == 6
    batch = ragged_batch()
    expected = torch_answers(model, batch)
    got = answers(source, Plan({}, chosen)).predict(batch)
    plain = answers(source, Plan({})).predict(batch)
    for output, values in expected.items():
        size = np.abs(values).max()
        np.testing.assert_allclose(got[output], values, rtol=0, atol=1e-5 * size)
        assert not np.array_equal(got[output], plain[output])


@pytest.mark.parametrize("name", ["post", "pre"])
@pytest.mark.parametrize("kind", ["row_s7", "static_s7"])
def test_wide_channels_cost_less_once_they_are_equalized(name, kind):
    config, model, source = make(ENCODERS[name])
    units = emit(config, source.state).units
    ranges = {
        u: (float(low.min()), float(high.max())) for u, (low, high) in source.channels.items()
    }
    source = Source(source.config, source.state, ranges, source.channels)
    batch = ragged_batch()
    expected = torch_answers(model, batch)["embedding"]
    errors = []
    for chosen in ((), tuple(each.norm for each in equalizable(config))):
        plan = Plan(fully_quant(units, kind).kinds, chosen)
        got = answers(source, plan).predict(batch)["embedding"]
        errors.append(float(((got - expected) ** 2).sum()))
    assert errors[1] < 0.6 * errors[0]


def test_one_norm_alone_may_be_equalized_and_the_plan_says_so():
    _, model, source = make({})
    plan = Plan({}, ("encoder.layers.1.norm1",))
    batch = ragged_batch()
    got = answers(source, plan).predict(batch)["embedding"]
    np.testing.assert_allclose(got, torch_answers(model, batch)["embedding"], atol=1e-4)
    stored = PlanFile.of(plan.to_file().model_dump(mode="json"))
    assert stored.equalized == plan.equalized
    assert stored.digest != Plan({}).digest


@pytest.mark.parametrize(
    "encoder",
    [
        {"shared_layers": True},
        {"norm_position": "both"},
        {"norm_position": "output"},
        {"norm": "rms_offset", "norm_position": "pre"},
        {"layer_scale": 0.1, "norm_position": "pre"},
        {"position_bias": {"type": "disentangled"}},
        {"parallel": True, "norm_position": "pre"},
        {"first_norm": False, "norm_position": "pre"},
    ],
)
def test_blocks_in_which_others_read_a_norm_are_left_as_they_are(encoder):
    try:
        config = model_config({"type": "transformer", "num_heads": 4, **encoder})
    except ValueError:
        pytest.fail(f"{encoder} is not a valid encoder")
    assert equalizable(config) == ()
    assert equalizable(model_config({"type": "lstm", "num_layers": 1})) == ()


def test_unknown_norms_and_missing_observations_are_refused():
    config, _, source = make({})
    with pytest.raises(InputError, match=r"equalizes 'encoder\.norm'; this model has embedding"):
        source.emit(Plan({}, ("encoder.norm",)))
    bare = Source(config.model_dump(mode="json"), source.state)
    with pytest.raises(InputError, match="was not observed: calibrate"):
        bare.emit(Plan({}, ("embedding.norm",)))
