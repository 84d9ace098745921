"""Adapters of peft: merged into a package, kept, given back, and refused where they break it."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Phi3Config,
    Phi3ForCausalLM,
)

from orchestrator.cli import main
from orchestrator.errors import RefusedError
from orchestrator.finetuning.adapters import ADAPTER_FOLDER, export_adapter, import_adapter
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_tiny

peft = pytest.importorskip("peft", reason="peft is an extra for development")

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A zoo with an imported classifier, and an adapter that peft wrote for it."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))
    model.save_pretrained(folder / "base")
    (folder / "base" / "tokenizer.json").write_text(tokenizer().to_str())
    options = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"])
    wrapped = peft.get_peft_model(model, options).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    wrapped.save_pretrained(folder / "adapter")
    code = main(["zoo", "import", f"hf:{folder}/base", "--zoo", str(folder / "zoo"), "--name", "b"])
    assert code == 0
    return folder, wrapped


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(SENTENCES).lower().split()]
    vocab = {word: number for number, word in enumerate(list(dict.fromkeys(words))[:61])}
    own = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    return own


def test_a_merged_adapter_answers_as_peft_does_and_is_given_back(place, capsys):
    folder, wrapped = place
    zoo = ["--zoo", str(folder / "zoo")]
    command = ["zoo", "import", f"hf:{folder}/adapter", "--onto", "b", "--keep-adapter", *zoo]
    assert main([*command, "--name", "merged", "--json", "--allow-unverified", "cls"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["metrics"]["import.adapted_layers"] == 4
    package = Zoo(folder / "zoo").get("merged")
    assert [parent.ref for parent in package.manifest.parents] == ["b/v0001"]
    ids = torch.randint(5, 61, (3, 9), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ours = load_model(package.path).eval()
    (head,) = ours.targets
    with torch.no_grad():
        np.testing.assert_allclose(
            ours.predict(batch)[head], wrapped(**batch).logits, atol=1e-5, rtol=0
        )
    assert main(["zoo", "export", "merged", "--adapter", "--to", str(folder / "out"), *zoo]) == 0
    base = BertForSequenceClassification.from_pretrained(folder / "base")
    again = peft.PeftModel.from_pretrained(base, folder / "out").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(**batch).logits, wrapped(**batch).logits, atol=1e-6)


def test_without_being_kept_an_adapter_is_only_in_the_weights(place, capsys):
    folder, _ = place
    zoo = ["--zoo", str(folder / "zoo")]
    command = ["zoo", "import", f"hf:{folder}/adapter", "--onto", "b", "--name", "m", *zoo]
    assert main([*command, "--allow-unverified", "cls"]) == 0
    assert not any(
        n.startswith(ADAPTER_FOLDER) for n in Zoo(folder / "zoo").get("m").manifest.files
    )
    assert main(["zoo", "export", "m", "--adapter", "--to", str(folder / "x"), *zoo]) == 2
    assert "keeps no adapter. Import one with --keep-adapter" in capsys.readouterr().err
    assert not (folder / "x").exists()


def test_what_is_not_an_adapter_of_the_package_is_refused(place, capsys):
    folder, _ = place
    zoo = ["--zoo", str(folder / "zoo")]
    commit_tiny(Zoo(folder / "zoo"), "other")
    before = sorted((folder / "zoo").rglob("*"))
    for arguments, message in (
        ([f"hf:{folder}/base", "--onto", "b"], "adapter_config.json cannot be read"),
        ([f"hf:{folder}/adapter"], "is an adapter of peft. Import it into the package"),
        ([f"hf:{folder}/adapter", "--keep-adapter"], "needs --onto PACKAGE"),
        ([f"hf:{folder}/adapter", "--onto", "c"], "no package"),
    ):
        assert main(["zoo", "import", *arguments, *zoo]) == 2
        assert message in capsys.readouterr().err
    assert sorted((folder / "zoo").rglob("*")) == before


def test_a_head_that_nothing_can_measure_is_rejected_unless_it_is_named(place, capsys):
    folder, _ = place
    zoo = ["--zoo", str(folder / "zoo")]
    command = ["zoo", "import", f"hf:{folder}/adapter", "--onto", "b", "--name", "r", *zoo]
    assert main(command) == RefusedError.exit_code
    assert "cls: unverified" in capsys.readouterr().err
    assert Zoo(folder / "zoo").peek("r/v0001").manifest.status == "rejected"


def test_an_adapter_has_the_names_of_the_class_that_was_imported(tmp_path):
    """This Phi-3 is equal to a LLaMA, whose tensors have other names: its own are fused."""
    torch.manual_seed(0)
    config = Phi3Config(**SIZES, num_key_value_heads=2, pad_token_id=0)
    model = Phi3ForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    options = peft.LoraConfig(r=4, target_modules=["qkv_proj", "gate_up_proj"])
    wrapped = peft.get_peft_model(model, options).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    wrapped.save_pretrained(tmp_path / "adapter")
    zoo = Zoo(tmp_path / "zoo")
    base = import_checkpoint(zoo, f"hf:{tmp_path}/base", ImportOptions(name="base"))
    found = import_adapter(zoo, f"hf:{tmp_path}/adapter", base.ref, name="child", keep=True)
    ids = torch.randint(5, 61, (3, 9), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        logits = load_model(found.path).eval().predict(batch)["lm"]
        np.testing.assert_allclose(logits, wrapped(**batch).logits, atol=1e-5, rtol=0)
    assert export_adapter(zoo, found.ref, tmp_path / "out")
