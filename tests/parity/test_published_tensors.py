"""Tensors that published files have beside those of their class: read without options, and named.

Buffers of older releases, tables that are stored twice, and heads of other classes. Names are those
of the files on the Hub.
"""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from orchestrator.modeling.huggingface.classes import architectures
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo

from .harness import randomize
from .test_published_folders import cases

POSITIONS = torch.arange(16)[None]


def pooler(prefix, width, name="dense."):
    shapes = {"weight": (width, width), "bias": (width,)}
    return {f"{prefix}.pooler.{name}{part}": torch.randn(shape) for part, shape in shapes.items()}


def twice(*names, of):
    return lambda state: dict.fromkeys(names, state[of])


def masked_lm(prefix):
    """Files of RoBERTa and XLM-R: a pooler, positions, and the output under its second name."""

    def more(state):
        words = state[f"{prefix}.embeddings.word_embeddings.weight"]
        copies = {"lm_head.decoder.weight": words, "lm_head.decoder.bias": state["lm_head.bias"]}
        buffers = {f"{prefix}.embeddings.position_ids": POSITIONS}
        return copies | buffers | pooler(prefix, words.shape[1])

    return more


def bert(state):
    words = state["bert.embeddings.word_embeddings.weight"]
    width = words.shape[1]
    order = {"weight": torch.randn(2, width), "bias": torch.randn(2)}
    return {
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": state["cls.predictions.bias"],
        "bert.embeddings.position_ids": POSITIONS,
        **{f"cls.seq_relationship.{part}": tensor for part, tensor in order.items()},
        **pooler("bert", width),
    }


def t5(state):
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    return {**twice(*names, of="shared.weight")(state), unread: torch.randn(32, 2)}


ROTARY = "model.layers.0.self_attn.rotary_emb.inv_freq"
MORE = {
    "BertForMaskedLM": bert,
    "RobertaForMaskedLM": masked_lm("roberta"),
    "XLMRobertaForMaskedLM": masked_lm("roberta"),
    "DistilBertForMaskedLM": twice(
        "vocab_projector.weight", of="distilbert.embeddings.word_embeddings.weight"
    ),
    "ElectraForPreTraining": lambda state: {"electra.embeddings.position_ids": POSITIONS},
    "GPT2LMHeadModel": lambda state: {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16).tril(),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
    "LlamaForCausalLM": lambda state: {ROTARY: torch.ones(4)},
    "T5ForConditionalGeneration": t5,
    "CLIPModel": lambda state: {
        "text_model.embeddings.position_ids": POSITIONS,
        "vision_model.embeddings.position_ids": POSITIONS,
    },
    "WhisperForConditionalGeneration": twice(
        "proj_out.weight", of="model.decoder.embed_tokens.weight"
    ),
}
NORMS = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
OLD = {"BertForMaskedLM": NORMS}
"""Class → today's endings of names and those of its published file."""


@pytest.mark.parametrize("name", list(MORE))
def test_what_published_files_hold_beside_a_class_needs_no_option(name, tmp_path):
    known = cases()
    config = known[name if name in known else architectures()[name].model_type].config
    theirs = getattr(transformers, name)(config).eval()
    randomize(theirs)
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder)
    path = folder / "model.safetensors"
    state = load_file(path)
    more = MORE[name](state)
    for old, new in OLD.get(name, ()):
        state = {key.replace(old, new): tensor for key, tensor in state.items()}
    stored = {key: tensor.clone() for key, tensor in (state | more).items()}
    save_file(stored, path, metadata={"format": "pt"})
    package = import_checkpoint(Zoo(str(tmp_path / "zoo")), f"hf:{folder}", ImportOptions())
    report = package.read_json("evaluation/import.json")
    assert set(report["tensors_left_out"]) == set(more)
    heads = {key for key in more if ".pooler." in key or "seq_relationship" in key}
    assert set(report["other_heads_left_out"]) == heads
