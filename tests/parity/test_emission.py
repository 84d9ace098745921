"""Graphs against transformers' classes with random weights: hidden states of every family."""

import inspect

import numpy as np
import pytest
import torch

from tests.unit.quantization.models import EncoderGraph

from . import (
    test_bodies,
    test_deberta,
    test_decoder_only,
    test_dinov2,
    test_encoder_decoder,
    test_huggingface,
    test_llama_relatives,
    test_modernbert,
    test_mpnet,
    test_opt_neox,
    test_rotary_encoders,
    test_speech,
    test_text_encoders,
    test_vision,
)
from .harness import TOLERANCE, ours_from, randomize

MODULES = (
    *(test_huggingface, test_text_encoders, test_deberta, test_mpnet, test_modernbert),
    *(test_rotary_encoders, test_decoder_only, test_llama_relatives, test_opt_neox),
    *(test_encoder_decoder, test_vision, test_dinov2, test_speech, test_bodies),
)
READ = (
    *("input_ids", "attention_mask", "token_type_ids"),
    *("pixel_values", "input_values", "input_features"),
)
WITHOUT_A_GRAPH = ("mixtral",)
CASES = {
    f"{module.__name__.rpartition('.test_')[2]} {name}": make
    for module in MODULES
    for name, make in module.CASES.items()
    if not name.startswith(WITHOUT_A_GRAPH)
}


def reference(theirs, given):
    """Return the last hidden states of the encoder, [B, S, D]."""
    both = theirs.config.is_encoder_decoder
    encoder = theirs.get_encoder() if both else theirs.base_model
    hidden = encoder(**given).last_hidden_state
    norm = None if encoder is theirs else getattr(theirs, "layernorm", None)  # BEiT's masked class
    return (hidden if norm is None else norm(hidden)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_hidden_states_equal_those_of_transformers(name, tmp_path):
    make = CASES[name]
    needed = [p for p in inspect.signature(make).parameters.values() if p.default is p.empty]
    case = make(*("sdpa", "left")[: sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in needed)])
    theirs = case.theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    state = {key: value.numpy() for key, value in ours.state_dict().items()}
    own = {key: value for key, value in case.batch.items() if key in READ}
    batch = {key: value.numpy() for key, value in own.items()}
    rows, length = next(iter(batch.values())).shape[:2]
    batch.setdefault("attention_mask", np.ones((rows, length), np.int64))
    batch.setdefault("token_type_ids", np.zeros((rows, length), np.int64))
    hidden, mask = EncoderGraph(ours.config, state).run(batch)
    expected, real = ours.read(own)
    assert np.array_equal(mask, real.numpy())
    assert np.abs(hidden - expected.numpy())[mask].max() <= TOLERANCE
    given = {key: value for key, value in case.their_inputs.items() if key in READ}
    if "input_ids" in given:  # rows of choices have an axis more
        given = {key: value.view(own[key].shape) for key, value in given.items()}
    found = reference(theirs, given)
    assert np.abs(hidden - found.reshape(hidden.shape))[mask].max() <= TOLERANCE
