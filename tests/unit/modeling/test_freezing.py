"""Frozen parameters have no gradient; patterns that fit nothing are errors."""

import pytest
import torch

from orchestrator.errors import InputError
from orchestrator.modeling.lora import freeze

from .small import make_batch, make_model

RAW = {
    "encoder": {"type": "transformer", "num_heads": 2, "num_layers": 2},
    "target": {"type": "cls", "num_labels": 3},
}


def test_frozen_parameters_get_no_gradient():
    model = make_model(**RAW)
    frozen = freeze(model, ["embedding", "encoder.layers.0", "encoder.layers.1.norm?.bias"])
    assert "embedding.word.weight" in frozen
    assert "encoder.layers.0.attention.query.weight" in frozen
    assert "encoder.layers.1.norm2.bias" in frozen
    assert "encoder.layers.1.norm2.weight" not in frozen
    model(make_batch() | {"labels.cls": torch.tensor([0, 1, 2, 0])})["loss.cls"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("embeding", "embedding"),
        ("encoder.layer.0", "encoder.layers.0"),
        ("targets.clss", "targets.cls"),
    ],
)
def test_a_pattern_that_fits_nothing_names_the_nearest(pattern, near):
    with pytest.raises(InputError, match=f"fits no parameter.*Did you mean '{near}'"):
        freeze(make_model(**RAW), [pattern])


def test_something_must_be_left_to_train():
    model = make_model(**RAW)
    with pytest.raises(InputError, match="nothing to train"):
        freeze(model, ["embedding", "encoder", "targets"])
    assert all(parameter.requires_grad for parameter in model.parameters())
