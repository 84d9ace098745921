"""Adapters in the format of the library peft: written, read, refused; fused tensors too."""

import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from orchestrator.config import validate_config
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling import lora
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import LoraConfig, ModelConfig
from orchestrator.modeling.huggingface.folder import open_source
from orchestrator.modeling.huggingface.peft import read_adapter, write_adapter
from orchestrator.modeling.interfaces import IGNORED_LABEL
from tests.support.checkpoints import read_tensors

from .test_lora import shake

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}


def bert():
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))


def gpt2():
    sizes = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes))


def causal(cls, config_class, **options):
    return lambda: cls(config_class(**SIZES, num_key_value_heads=2, pad_token_id=0, **options))


FAMILIES = {
    "bert": (bert, ("*.attention.query", "*.up"), ["query", "intermediate.dense"]),
    "gpt2": (gpt2, ("*.attention.query", "*.attention.value", "*.down"), ["c_attn", "mlp.c_proj"]),
    "llama": (
        causal(LlamaForCausalLM, LlamaConfig),
        ("*.attention.key", "*.gate"),
        ["k_proj", "gate_proj"],
    ),
    "qwen3": (
        causal(Qwen3ForCausalLM, Qwen3Config, head_dim=12),
        ("*.attention.*",),
        ["q_proj", "k_proj", "v_proj", "o_proj"],
    ),
    "phi3": (  # two parts of a tensor whose parts differ in size
        causal(Phi3ForCausalLM, Phi3Config),
        ("*.attention.query", "*.attention.value", "*.up"),
        ["qkv_proj", "gate_up_proj"],
    ),
    "gemma2": (
        causal(Gemma2ForCausalLM, Gemma2Config, head_dim=12),
        ("*.attention.key", "*.down"),
        ["k_proj", "down_proj"],
    ),
    "olmo2": (
        causal(Olmo2ForCausalLM, Olmo2Config),
        ("*.attention.query", "*.attention.key"),
        ["q_proj", "k_proj"],
    ),
}


@pytest.fixture(params=list(FAMILIES))
def pair(request, tmp_path):
    """Their model, ours with the same weights, our layers and theirs."""
    build, ours, theirs = FAMILIES[request.param]
    reference = shake(build())
    reference.save_pretrained(tmp_path / "base")
    return reference, read_base(tmp_path / "base"), ours, theirs, tmp_path


def read_base(folder):
    source = open_source(folder)
    raw = validate_config(ModelConfig, source.config.model_dump(), "test")
    model = build_model(raw).eval()
    model.load_state_dict(read_tensors(source), strict=False)
    model.tie_weights()
    return model


def inputs():
    torch.manual_seed(0)
    ids = torch.randint(2, 61, (3, 9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def losses(theirs, ours):
    """Return both losses on the same labels."""
    batch = inputs()
    if "cls" in ours.targets:
        labels = torch.tensor([0, 2, 1])
        mine = ours(batch | {"labels.cls": labels})["loss.cls"] / 3
        return theirs(**batch, labels=labels).loss, mine
    labels = batch["input_ids"]
    shifted = torch.cat([labels[:, 1:], torch.full((3, 1), IGNORED_LABEL)], dim=1)
    mine = ours(batch | {"labels.lm": shifted})["loss.lm"] / (3 * 8)
    return theirs(**batch, labels=labels).loss, mine


@pytest.mark.parametrize("stabilised", [False, True])
def test_our_adapters_open_in_peft_with_equal_outputs_and_gradients(pair, stabilised):
    peft = pytest.importorskip("peft", reason="peft is an extra for development")
    theirs, ours, layers, _, folder = pair
    train = ("targets",) if "cls" in ours.targets else ()
    config = LoraConfig(layers=layers, rank=3, train=train, rank_stabilised=stabilised)
    lora.add_lora(ours, config)
    torch.manual_seed(4)
    with torch.no_grad():
        for _, layer in lora.adapted(ours):
            layer.lora_b.normal_(std=0.3)
    write_adapter(folder, ours, config, name=type(theirs).__name__)
    opened = peft.PeftModel.from_pretrained(theirs, folder, is_trainable=True).eval()
    expected, found = losses(opened, ours)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    expected.backward()
    found.backward()
    gradients = {
        name: parameter.grad
        for name, parameter in opened.named_parameters()
        if parameter.grad is not None
    }
    total = sum(float(g.double().square().sum()) for n, g in gradients.items() if "lora_A" in n)
    mine = sum(float(x.lora_a.grad.double().square().sum()) for _, x in lora.adapted(ours))
    assert mine > 0
    assert mine == pytest.approx(total, rel=1e-4)
    if "cls" in ours.targets:
        name = "encoder.layers.1.attention.query"
        layer = ours.get_submodule(name)
        front = "base_model.model.bert.encoder.layer.1.attention.self.query"
        for letter, own in (("A", layer.lora_a), ("B", layer.lora_b)):
            torch.testing.assert_close(
                own.grad, gradients[f"{front}.lora_{letter}.default.weight"], atol=1e-5, rtol=0
            )


def test_adapters_of_peft_open_here(pair):
    peft = pytest.importorskip("peft", reason="peft is an extra for development")
    theirs, ours, _, targets, folder = pair
    saved = ["classifier"] if "cls" in ours.targets else None
    options = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, modules_to_save=saved)
    wrapped = peft.get_peft_model(theirs, options).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    wrapped.save_pretrained(folder / "adapter")
    names = read_adapter(folder / "adapter", ours, type(theirs).__name__)
    assert names
    expected, found = losses(wrapped, ours)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    head = [n for n, p in ours.named_parameters() if p.requires_grad and ".lora_" not in n]
    assert head == (["targets.cls.output.weight", "targets.cls.output.bias"] if saved else [])


@pytest.mark.parametrize(
    "patterns",
    [
        {"alpha_pattern": {"query": 64}},
        {"alpha_pattern": {r".*layer\.1\..*query": 40, "value": 3}},
        {"rank_pattern": {"value": 2}, "alpha_pattern": {"attention.self.value": 9}},
        {"alpha_pattern": {"query": 64}, "use_rslora": True},
        {"alpha_pattern": {"quer": 64}, "init_lora_weights": "orthogonal"},
    ],
)
def test_patterns_of_peft_are_ends_of_names_and_regular_expressions(patterns, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is an extra for development")
    theirs = shake(bert())
    theirs.save_pretrained(tmp_path / "base")
    ours = read_base(tmp_path / "base")
    options = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"], **patterns)
    wrapped = trained(peft.get_peft_model(theirs, options))
    wrapped.save_pretrained(tmp_path / "adapter")
    read_adapter(tmp_path / "adapter", ours)
    expected, found = wrapped(**inputs()).logits, ours.predict(inputs())["cls"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("build", "targets", "options", "match"),
    [
        (bert, ["query"], {"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' changes"),
        (bert, ["query"], {"init_lora_weights": "olora"}, "init_lora_weights: 'olora' changes"),
        (bert, ["query", "word_embeddings"], {}, "do not fit .*lora_embedding_A"),
        (gpt2, ["c_attn"], {"modules_to_save": ["wte"]}, "modules_to_save: transformer.wte.weight"),
        (bert, ["query"], {"trainable_token_indices": [3]}, "trainable_token_indices: "),
    ],
)
def test_adapters_that_change_more_than_their_layers_are_refused(
    build, targets, options, match, tmp_path
):
    peft = pytest.importorskip("peft", reason="peft is an extra for development")
    theirs = shake(build())
    theirs.save_pretrained(tmp_path / "base")
    own = peft.LoraConfig(r=4, target_modules=targets, **options)
    peft.get_peft_model(theirs, own).save_pretrained(tmp_path / "adapter")
    with pytest.raises((InputError, IntegrityError), match=match):
        read_adapter(tmp_path / "adapter", read_base(tmp_path / "base"))


def trained(wrapped):
    """Return a model of peft whose adapters have learned something."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return wrapped.eval()


def test_adapters_written_here_are_read_back(pair):
    _, ours, layers, _, folder = pair
    config = LoraConfig(layers=layers, rank=2, train=())
    lora.add_lora(ours, config)
    with torch.no_grad():
        for _, layer in lora.adapted(ours):
            layer.lora_b.normal_(std=0.3)
    write_adapter(folder, ours, config, base="someone/model")
    again = read_base(folder / "base")
    assert read_adapter(folder, again) == [name for name, _ in lora.adapted(ours)]
    key = next(iter(ours.targets))
    found, expected = again.predict(inputs())[key], ours.predict(inputs())[key]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "IA3"}, "only 'LORA' is read"),
        ({"use_dora": True}, "use_dora: True is not supported"),
        ({"bias": "all"}, "bias: 'all' is not supported"),
    ],
)
def test_adapters_of_other_kinds_are_refused(pair, change, match):
    _, ours, layers, _, folder = pair
    config = LoraConfig(layers=layers, train=())
    lora.add_lora(ours, config)
    write_adapter(folder, ours, config)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=match):
        read_adapter(folder, read_base(folder / "base"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    path.write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(InputError, match="Only safetensors"):
        read_adapter(folder, read_base(folder / "base"))
