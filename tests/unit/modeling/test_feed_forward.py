"""The feed-forward against its formula, and where its dropout acts."""

import pytest
import torch
import torch.nn.functional as F

from orchestrator.errors import ConfigError
from orchestrator.modeling.layers.feed_forward import FeedForward

from .small import make_config


def layer(gated, dropout=0.0):
    made = FeedForward(6, 50, activation="relu", gated=gated, dropout=dropout)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("gated", [False, True])
def test_it_is_its_formula(gated):
    made, x = layer(gated), torch.randn(2, 3, 6)
    up = x @ made.up.weight.T + made.up.bias
    inner = F.relu(x @ made.gate.weight.T + made.gate.bias) * up if gated else F.relu(up)
    torch.testing.assert_close(made(x), inner @ made.down.weight.T + made.down.bias)


def test_dropout_acts_inside_and_only_in_training():
    made, x = layer(False, dropout=0.5), torch.randn(1, 1, 6)
    seen = []
    made.down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.eval()(x)
    made.train()(x)
    kept, dropped = seen
    torch.testing.assert_close(dropped[dropped != 0], 2 * kept[dropped != 0])
    assert 0 < int((dropped != 0).sum()) < int((kept != 0).sum())


def test_experts_have_no_dropout_inside():
    encoder = {"type": "transformer", "experts": {}, "activation_dropout": 0.1}
    with pytest.raises(ConfigError, match="activation_dropout"):
        make_config(encoder=encoder)
