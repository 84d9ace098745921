"""Checkpoints as TencentPretrain trains them, against an independent form of its models."""

import json

import pytest
import torch

from orchestrator.cli import main
from orchestrator.errors import IntegrityError
from orchestrator.modeling.huggingface.importing import ImportOptions
from orchestrator.modeling.package import load_model
from orchestrator.modeling.tencentpretrain.importing import import_tencentpretrain
from orchestrator.zoo import Zoo

from .harness import VOCAB, close, padded_batch
from .tencentpretrain_reference import Reference

SIZES = {"emb_size": 32, "hidden_size": 32, "feedforward_size": 48, "heads_num": 4}
SIZES |= {"layers_num": 2, "max_seq_length": 16, "dropout": 0.1, "encoder": "transformer"}
SHARED = {"decoder": "transformer", "decoder_layers_num": 3, "target": ["lm"]}
SHARED |= {"share_embedding": True, "tie_weights": True}
T5 = SIZES | SHARED | {"embedding": ["word"], "tgt_embedding": ["word"], "hidden_act": "relu"}
T5 |= {"relative_position_embedding": True, "remove_embedding_layernorm": True, "layernorm": "t5"}
T5 |= {"layernorm_positioning": "pre", "remove_attention_scale": True}
T5 |= {"remove_transformer_bias": True, "data_processor": "t5", "attention_head_size": 6}
BART = SIZES | SHARED | {"embedding": ["word", "pos"], "tgt_embedding": ["word", "pos"]}
BART |= {"has_lmtarget_bias": True, "data_processor": "bart"}
PEGASUS = SIZES | SHARED | {"hidden_act": "relu", "has_lmtarget_bias": True}
PEGASUS |= {"embedding": ["word", "sinusoidalpos"], "tgt_embedding": ["word", "sinusoidalpos"]}
PEGASUS |= {"remove_embedding_layernorm": True, "layernorm_positioning": "pre"}
SEQUENCE_MODELS = {"t5": T5, "bart": BART, "pegasus": PEGASUS}


def stored(folder, options, state):
    (folder / "config.json").write_text(json.dumps(options))
    torch.save(dict(state), folder / "model.bin")
    return f"tencentpretrain:{folder / 'config.json'},{folder / 'model.bin'}"


def imported(folder, options, state):
    """Return the package, its report and its model."""
    source = stored(folder, options, state)
    package = import_tencentpretrain(Zoo(str(folder / "zoo")), source, ImportOptions())
    report = package.read_json("evaluation/import.json")
    return package, report, load_model(package.path).eval()


def two_texts():
    """Return what theirs reads, and our batch."""
    batch = padded_batch()
    del batch["token_type_ids"]
    batch["decoder_input_ids"] = batch["input_ids"].flip(0)
    batch["decoder_attention_mask"] = batch["attention_mask"].flip(0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    return (ids, mask, ids.flip(0), mask.flip(0)), batch


@pytest.mark.parametrize("name", list(SEQUENCE_MODELS))
def test_a_model_that_shares_its_tables_has_an_output_layer_of_its_own(name, tmp_path):
    options = SEQUENCE_MODELS[name]
    theirs = Reference(options, VOCAB)
    inputs, batch = two_texts()
    expected = theirs.forward(*inputs)["lm"]
    words, output = "embedding.word.embedding.weight", "target.lm.output_layer.weight"
    assert torch.equal(theirs.weights[words], theirs.weights[f"tgt_{words}"])
    assert not torch.equal(theirs.weights[words], theirs.weights[output])
    package, report, ours = imported(tmp_path, options, theirs.weights)
    real = batch["decoder_attention_mask"].bool()
    close(ours.predict(batch)["lm"][real], expected[real], name)
    assert not ours.config.target[0].tie
    assert ours.config.share_embedding
    named = [line for line in report["deviations"] if "output layer is a table of its own" in line]
    assert len(named) == 1
    assert package.manifest.producer.model_extra["deviations"] == report["deviations"]
    assert not any("(T7)" in line for line in report["deviations"])  # nothing is divided


def test_the_command_line_names_the_table(tmp_path, capsys):
    theirs = Reference(BART, VOCAB)
    theirs.forward(*two_texts()[0])
    source = stored(tmp_path, BART, theirs.weights)
    assert main(["zoo", "import", source, "--zoo", str(tmp_path / "zoo")]) == 0
    assert "Deviation: the output layer is a table of its own" in capsys.readouterr().out


def test_tables_that_their_model_does_share_must_be_equal(tmp_path):
    theirs = Reference(T5, VOCAB)
    theirs.forward(*two_texts()[0])
    words = "tgt_embedding.word.embedding.weight"
    state = theirs.weights | {words: theirs.weights[words] + 1}
    with pytest.raises(IntegrityError, match=r"tgt_embedding\.word.* differ"):
        imported(tmp_path, T5, state)
