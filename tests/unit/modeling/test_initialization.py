"""Values of new parameters."""

import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.modeling.builder import build_model

from .small import make_config, make_model

ENCODERS = [
    {"type": "transformer", "num_heads": 4, "norm": "rms", "norm_position": "pre"},
    {"type": "transformer", "num_heads": 4},
]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_norms_are_1_biases_0_and_weights_normal(encoder):
    model = make_model(hidden_size=64, vocab_size=200, encoder=encoder, target=["mlm", "cls"])
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 2000:
            assert abs(parameter.std().item() - 0.02) < 0.002, name
            assert abs(parameter.mean().item()) < 0.002, name


def test_the_range_is_configurable():
    model = make_model(hidden_size=64, vocab_size=200, initializer_range=0.1, encoder="gru")
    assert abs(model.embedding.word.weight.std().item() - 0.1) < 0.01


def test_a_tied_weight_is_drawn_once():
    """One draw more would shift everything after it; with and without the tie, bodies are equal."""
    bodies = []
    for tie in (True, False):
        torch.manual_seed(5)
        target = {"type": "lm", "tie": tie}
        model = build_model(make_config(encoder="gru", target=target))
        bodies.append(model.embedding.word.weight)
    assert torch.equal(*bodies)
    assert bodies[0].std() > 0


def test_the_same_seed_gives_the_same_model():
    states = []
    for _ in range(2):
        torch.manual_seed(9)
        states.append(build_model(make_config(encoder="bilstm", target="bilm")).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("encoder", ["lstm", "bigru", "gatedcnn"])
def test_signals_keep_their_size_through_deep_encoders(encoder):
    model = make_model(hidden_size=64, encoder={"type": encoder, "num_layers": 4})
    hidden = torch.randn(2, 8, 64)
    output = model.encoder(hidden, torch.ones(2, 8, dtype=torch.bool), {})
    assert 0.01 < output.std().item() < 10


def test_a_model_without_a_vocabulary_size_is_not_built():
    with pytest.raises(ConfigError, match="vocab_size: is 0"):
        make_model(vocab_size=0, encoder="gru", target="lm")


def test_images_need_no_vocabulary():
    parts = [{"type": "patch", "image_size": 4, "patch_size": 2}, "pos"]
    model = make_model(vocab_size=0, embedding={"parts": parts}, encoder="gru", target="cls")
    assert "embedding.patch.projection.weight" in model.state_dict()


def test_a_config_that_does_not_fit_together_is_not_built():
    with pytest.raises(ConfigError, match="num_heads: 3 does not divide"):
        make_model(encoder={"type": "transformer", "num_heads": 3})
