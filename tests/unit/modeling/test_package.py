"""Models in folders: strict both ways, tied weights once, heads replaced on demand."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.errors import IntegrityError
from orchestrator.modeling.package import load_model, read_config, write_model
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.modeling.targets.token_configs import MlmConfig

from .small import make_batch, make_config, make_model

RAW = {
    "encoder": {"type": "transformer", "num_heads": 2, "num_layers": 1},
    "target": ["mlm", {"type": "cls", "name": "topic", "num_labels": 3}],
}


@pytest.fixture
def stored(tmp_path):
    model = make_model(**RAW)
    write_model(tmp_path, model, model.config)
    return tmp_path, model


def edit(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_what_is_read_is_what_was_written(stored):
    folder, model = stored
    again = load_model(folder)
    assert again.config == model.config == read_config(folder)
    assert all(
        torch.equal(tensor, model.state_dict()[k]) for k, tensor in again.state_dict().items()
    )
    assert again.targets["mlm"].output.weight is again.embedding.word.weight
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_tied_weight_is_stored_once(stored):
    names = set(load_file(stored[0] / "model.safetensors"))
    assert "embedding.word.weight" in names
    assert "targets.mlm.output.weight" not in names


@pytest.mark.parametrize("dropped", ["embedding.word.weight", "targets.mlm.output.weight", None])
def test_a_state_may_have_either_name_of_a_tied_weight_or_both(dropped, tmp_path):
    model = make_model(**RAW)
    state = {k: v for k, v in model.state_dict().items() if k != dropped}
    write_model(tmp_path, state, model.config)
    assert torch.equal(load_model(tmp_path).embedding.word.weight, model.embedding.word.weight)


def test_loading_trains_on(stored):
    model = load_model(stored[0])
    batch = make_batch() | {"labels.topic": torch.tensor([0, 1, 2, 0])}
    model(batch)["loss.topic"].backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.embedding.word.weight.grad.any()


def test_missing_unexpected_and_misshaped_names_are_all_listed(stored):
    def change(state):
        del state["encoder.layers.0.norm1.bias"]
        state["encoder.layers.7.norm1.bias"] = torch.zeros(16)
        state["embedding.pos.weight"] = torch.zeros(3, 16)

    edit(stored[0], change)
    with pytest.raises(IntegrityError) as caught:
        load_model(stored[0])
    text = str(caught.value)
    assert "missing: encoder.layers.0.norm1.bias" in text
    assert "unexpected: encoder.layers.7.norm1.bias" in text
    assert "mis-shaped: embedding.pos.weight is [3, 16], expected [8, 16]" in text


def test_a_state_of_another_model_is_not_written(tmp_path):
    model = make_model(**RAW)
    state = model.state_dict()
    state.pop("embedding.norm.weight")
    with pytest.raises(IntegrityError, match=r"missing: embedding\.norm\.weight"):
        write_model(tmp_path, state, model.config)
    assert list(tmp_path.iterdir()) == []


def test_new_heads_start_fresh_and_the_rest_is_read(stored):
    folder, model = stored
    torch.manual_seed(1)
    changed = load_model(folder, targets=[ClsConfig(name="kind", num_labels=5)])
    assert [target.name for target in changed.config.target] == ["kind"]
    assert changed.targets["kind"].output.weight.shape == (5, 16)
    assert changed.targets["kind"].output.weight.std() > 0
    assert not changed.targets["kind"].output.bias.any()
    for name, parameter in changed.named_parameters():
        if not name.startswith("targets."):
            assert torch.equal(parameter, model.get_parameter(name)), name


def test_a_wanted_head_that_is_stored_keeps_its_weights(stored):
    folder, model = stored
    kept = model.config.target[1]
    changed = load_model(folder, targets=[kept, ClsConfig(name="kind", num_labels=5)])
    assert torch.equal(changed.targets["topic"].output.weight, model.targets["topic"].output.weight)


def test_a_head_of_the_same_name_with_other_options_starts_fresh(stored):
    changed = load_model(stored[0], targets=[ClsConfig(name="topic", num_labels=4)])
    assert changed.targets["topic"].output.weight.shape == (4, 16)


def test_a_new_tied_head_does_not_touch_the_word_table(stored):
    folder, model = stored
    changed = load_model(folder, targets=[MlmConfig(name="other")])
    assert torch.equal(changed.embedding.word.weight, model.embedding.word.weight)
    assert changed.targets["other"].output.weight is changed.embedding.word.weight


def test_a_model_without_heads_encodes(stored):
    folder, model = stored
    bare = load_model(folder, targets=[]).eval()
    batch = make_batch()
    assert torch.equal(bare.encode(batch), model.encode(batch))
    assert bare(batch) == {}


def test_a_missing_body_weight_is_an_error_even_if_heads_are_replaced(stored):
    edit(stored[0], lambda state: state.pop("embedding.norm.bias"))
    with pytest.raises(IntegrityError, match=r"embedding\.norm\.bias"):
        load_model(stored[0], targets=[])


def test_files_of_others_are_refused_with_what_to_do(stored):
    folder = stored[0]
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(IntegrityError, match=r"model_type is 'bert'.*Import"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "orchestrator", "hiden": 3}'])
def test_a_broken_config_is_an_integrity_error(stored, text):
    (stored[0] / "config.json").write_text(text)
    with pytest.raises(IntegrityError):
        read_config(stored[0])


def test_truncated_weights_are_an_integrity_error(stored):
    path = stored[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_model(stored[0])


def test_missing_files_are_an_integrity_error(tmp_path):
    with pytest.raises(IntegrityError, match=r"config\.json"):
        load_model(tmp_path)


def test_config_json_holds_the_keys_of_hugging_face(stored):
    data = json.loads((stored[0] / "config.json").read_text())
    assert data["model_type"] == "orchestrator"
    config = make_config(**RAW)
    for key in ("hidden_size", "vocab_size", "max_position_embeddings", "pad_token_id"):
        assert data[key] == getattr(config, key)
