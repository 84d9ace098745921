"""Weights written one by one: safetensors' own bytes, shards above a size, one reader."""

import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.errors import IntegrityError
from orchestrator.modeling.config import INDEX, WEIGHTS
from orchestrator.modeling.package import (
    has_weights,
    load_model,
    read_state,
    stored_bytes,
    stream_model,
    write_model,
)
from orchestrator.modeling.tensor_files import write_tensors

from .small import make_model

RAW = {
    "encoder": {"type": "transformer", "num_heads": 2, "num_layers": 2},
    "target": ["mlm", {"type": "cls", "name": "topic", "num_labels": 3}],
}


def stored_state(model):
    tied = model.tied_names()
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def test_a_stream_in_any_order_makes_the_bytes_of_the_library(tmp_path):
    model = make_model(**RAW)
    stream = reversed(list(model.state_dict().items()))  # both names of the tied table are in it
    stream_model(tmp_path, ((name, value.double()) for name, value in stream), model.config)
    save_file(stored_state(model), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_all_element_types_lie_where_the_library_puts_them(tmp_path):
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"]
    kinds += ["uint8", "bool", "float8_e4m3fn", "float8_e5m2"]
    state = {
        f"{name}.{kind}": torch.ones(3).to(getattr(torch, kind)) for name in "bÄa" for kind in kinds
    }
    write_tensors(tmp_path, state, state.items())
    save_file(state, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_large_model_becomes_shards_that_every_reader_takes(tmp_path):
    model = make_model(**RAW)
    stream_model(tmp_path, model.named_parameters(), model.config, shard_bytes=4000)
    names = {path.name for path in tmp_path.iterdir()}
    assert INDEX in names
    assert WEIGHTS not in names
    assert len(names) > 4
    assert has_weights(names)
    again, expected = load_model(tmp_path), model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    state = read_state(tmp_path)
    assert state.keys() == stored_state(model).keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert stored_bytes(tmp_path) > sum(4 * value.numel() for value in state.values())


def test_short_formats_are_read_as_fp32_or_as_they_are(tmp_path):
    model = make_model(**RAW)
    state = {name: value.bfloat16() for name, value in stored_state(model).items()}
    write_model(tmp_path, state, model.config)
    assert {value.dtype for value in read_state(tmp_path).values()} == {torch.float32}
    assert {value.dtype for value in read_state(tmp_path, None).values()} == {torch.bfloat16}
    assert stored_bytes(tmp_path) < 3 * sum(value.numel() for value in state.values())


def test_a_stream_of_another_model_is_refused_by_name(tmp_path):
    model = make_model(**RAW)
    state = stored_state(model)
    wrong = {name: value for name, value in state.items() if name != "embedding.word.weight"}
    wrong["targets.topic.output.bias"] = torch.zeros(4)
    wrong["stranger"] = torch.zeros(1)
    with pytest.raises(IntegrityError) as caught:
        stream_model(tmp_path, wrong.items(), model.config)
    for part in ("missing: embedding.word.weight", "unexpected: stranger", "is [4], expected [3]"):
        assert part in str(caught.value)
    assert not (tmp_path / "config.json").exists()


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    model = make_model(**RAW)
    alive, most = set(), 0

    def stream():
        nonlocal most
        for number, (name, value) in enumerate(model.named_parameters()):
            copy = value.detach().clone()
            alive.add(number)
            weakref.finalize(copy, alive.discard, number)
            most = max(most, len(alive))
            yield name, copy
            del copy

    stream_model(tmp_path, stream(), model.config)
    assert most <= 2  # the one that is written, and the next
    assert load_file(tmp_path / WEIGHTS).keys() == stored_state(model).keys()
