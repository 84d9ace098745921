"""First values by parameter name and offset: slices, distributions, ties, buffers."""

import math

import pytest
import torch
from torch import nn

from orchestrator.errors import StageError
from orchestrator.modeling.builder import build_model, build_on_meta, first_values
from orchestrator.modeling.initialization import (
    BLOCK,
    Constant,
    FirstValues,
    Normal,
    Uniform,
    Zeros,
    fill_all,
    parameters_on_meta,
)

from .small import make_config

SIZE = 3 * BLOCK + 12345
SLICES = [
    (0, 1),
    (1, BLOCK),
    (BLOCK - 1, 2),
    (BLOCK, BLOCK),
    (7, 2 * BLOCK),
    (SIZE - 1, 1),
    (SIZE, 0),
]
DRAWS = {"normal": Normal(0.3), "uniform": Uniform(0.5), "constant": Constant(2.0)}
CONFIGS = {
    "t5": {
        "encoder": {"type": "transformer", "num_heads": 4, "norm": "rms"},
        "decoder": {"type": "transformer", "num_heads": 4},
        "target_embedding": {"parts": ["word", "pos"]},
        "share_embedding": True,
        "initialization": "t5",
        "target": {"type": "lm", "tie": True},
    },
    "recurrent": {"encoder": "bilstm", "target": "bilm"},
    "gated": {"encoder": "gatedcnn", "target": "lm"},
    "waves": {
        "embedding": {"parts": ["word", {"type": "sinusoidalpos", "stored": True}]},
        "encoder": {"type": "transformer", "num_heads": 4, "layer_scale": 0.1},
        "initialization": "gpt2",
        "target": ["mlm", "cls"],
    },
    "speech": {
        "embedding": {"parts": [
            {"type": "waveform", "channels": [8, 8], "kernels": [3, 3], "strides": [2, 2]},
            {"type": "convpos", "kernel_size": 4, "groups": 4},
        ]},
        "encoder": {"type": "transformer", "num_heads": 4},
        "target": "cls",
    },
}  # fmt: skip


def one_parameter(draw, *, seed=1, name="weight", shape=(SIZE,)):
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.empty(shape, device="meta")))
    return FirstValues(module, {name: draw}, seed)


@pytest.mark.parametrize("kind", list(DRAWS))
def test_any_slice_has_the_bits_of_the_whole(kind):
    values = one_parameter(DRAWS[kind])
    whole = values.whole("weight")
    for start, numel in SLICES:
        part = torch.full((numel,), math.nan)
        values.fill("weight", part, start)
        assert torch.equal(part, whole[start : start + numel]), (start, numel)


def test_a_short_type_gets_rounded_values():
    values = one_parameter(Normal(1.0))
    short = torch.empty(100, dtype=torch.bfloat16)
    values.fill("weight", short, 50)
    assert torch.equal(short, values.whole("weight")[50:150].bfloat16())


def test_normal_values_are_normal():
    drawn = one_parameter(Normal(0.3), shape=(1 << 20,)).whole("weight").double() / 0.3
    root = math.sqrt(len(drawn))
    assert abs(drawn.mean()) < 4 / root
    assert abs(drawn.std() - 1) < 4 / root
    assert abs(drawn.pow(3).mean()) < 4 * math.sqrt(15) / root
    assert abs(drawn.pow(4).mean() - 3) < 4 * math.sqrt(96) / root
    beyond = [(drawn.abs() > limit).double().mean().item() for limit in (1, 2, 3)]
    assert beyond == pytest.approx([0.3173, 0.0455, 0.0027], rel=0.1)
    for lag in (1, BLOCK // 2, BLOCK):  # neighbors, the two numbers of a pair, blocks
        assert abs((drawn[lag:] * drawn[:-lag]).mean()) < 5 / root, lag


def test_uniform_values_fill_their_range():
    drawn = one_parameter(Uniform(0.5), shape=(1 << 20,)).whole("weight")
    counts = torch.histc(drawn, 16, -0.5, 0.5)
    assert counts.sum() == len(drawn)
    assert (counts / len(drawn) * 16 - 1).abs().max() < 0.02


def test_seed_and_name_decide():
    first = one_parameter(Normal(1.0)).whole("weight")
    assert not torch.equal(first, one_parameter(Normal(1.0), seed=2).whole("weight"))
    assert not torch.equal(first, one_parameter(Normal(1.0), name="other").whole("other"))
    assert torch.equal(first, one_parameter(Normal(1.0)).whole("weight"))


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_parameter_of_a_model_can_be_filled_in_parts(name):
    config = make_config(**CONFIGS[name])
    expected = dict(build_model(config, seed=3).named_parameters())
    values = first_values(build_on_meta(config), config, 3)
    for key, parameter in expected.items():
        flat, cut = parameter.detach().view(-1), parameter.numel() // 3
        parts = [torch.empty(cut), torch.empty(len(flat) - cut)]
        values.fill(key, parts[0])
        values.fill(key, parts[1], cut)
        assert torch.equal(torch.cat(parts), flat), key


def test_parameters_do_not_depend_on_each_other():
    """A deeper model begins with the values of a shallower one."""
    states = [
        build_model(make_config(encoder={"type": "gatedcnn", "num_layers": n}, target="lm"), seed=1)
        for n in (2, 3)
    ]
    few, more = (model.state_dict() for model in states)
    assert set(few) < set(more)
    assert all(torch.equal(few[key], more[key]) for key in few)


def test_tied_parameters_are_one_after_building():
    model = build_model(make_config(encoder="gru", target={"type": "lm", "tie": True}))
    assert model.tied_names()
    assert model.targets["lm"].output.weight is model.embedding.word.weight


class Owner(nn.Module):
    """A shared parameter, a buffer with values, and a frozen parameter."""

    def __init__(self):
        super().__init__()
        weight = nn.Parameter(torch.empty(4, 4))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first.weight = self.second.weight = weight
        self.fixed = nn.Parameter(torch.empty(3), requires_grad=False)
        self.register_buffer("steps", torch.arange(5))


def test_parameters_go_to_the_meta_device_and_buffers_do_not():
    with parameters_on_meta():
        owner = Owner()
    assert all(parameter.is_meta for parameter in owner.parameters())
    assert owner.steps.tolist() == [0, 1, 2, 3, 4]
    assert not nn.Linear(2, 2).weight.is_meta  # modules made later are as usual
    fill_all(owner, Zeros(), torch.device("cpu"))
    assert not any(parameter.is_meta for parameter in owner.parameters())
    assert owner.first.weight is owner.second.weight
    assert not owner.fixed.requires_grad
    assert owner.second.weight.requires_grad


def test_a_module_must_say_how_all_its_parameters_begin():
    config = make_config(encoder="gru", target="lm")
    model = build_on_meta(config)
    model.encoder.first_values = lambda std: {}
    with pytest.raises(StageError, match=r"GruEncoder\.first_values says nothing of 'stack"):
        first_values(model, config, 1)
