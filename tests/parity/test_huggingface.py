"""BERT, GPT-2, LLaMA and ViT against transformers' classes: outputs, loss, every gradient."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from .harness import (
    BATCH,
    LAYERS,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    next_token_labels,
    padded_batch,
    token_labels,
)

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def bert(cls, attention, **options):
    return cls(
        BertConfig(**SIZES, max_position_embeddings=16, attn_implementation=attention, **options)
    )


def bert_pretraining(attention, side):
    batch = padded_batch(side)
    labels, pairs = token_labels(batch["attention_mask"]), torch.tensor([0, 1, 1, 0])
    return Case(
        bert(BertForPreTraining, attention),
        batch | {"labels": labels, "next_sentence_label": pairs},
        batch | {"labels.mlm": labels, "labels.nsp": pairs},
        {"mlm": lambda o: o.prediction_logits, "nsp": lambda o: o.seq_relationship_logits},
        {"mlm": batch["attention_mask"].bool()},
    )


def bert_classifier(attention, side):
    batch, labels = padded_batch(side), torch.tensor([0, 2, 1, 1])
    return Case(
        bert(BertForSequenceClassification, attention, num_labels=3),
        batch | {"labels": labels},
        batch | {"labels.cls": labels},
        {"cls": lambda o: o.logits},
    )


def causal(theirs, side):
    batch = padded_batch(side)
    del batch["token_type_ids"]
    labels, shifted = next_token_labels(batch["attention_mask"])
    return Case(
        theirs,
        batch | {"labels": labels},
        batch | {"labels.lm": shifted},
        {"lm": lambda o: o.logits},
        {"lm": batch["attention_mask"].bool()},
    )


def gpt2(attention, side):
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=16,
        attn_implementation=attention,
    )
    return causal(GPT2LMHeadModel(config), side)


def llama(attention, side, **options):
    config = LlamaConfig(
        **SIZES,
        max_position_embeddings=16,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        attn_implementation=attention,
        **options,
    )
    return causal(LlamaForCausalLM(config), side)


def vit(attention, side):
    del side
    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    config = ViTConfig(
        **sizes, image_size=12, patch_size=4, num_labels=3, attn_implementation=attention
    )
    generator = torch.Generator().manual_seed(9)
    pixels = {"pixel_values": torch.randn(BATCH, 3, 12, 12, generator=generator)}
    labels = torch.tensor([0, 2, 1, 1])
    return Case(
        ViTForImageClassification(config),
        pixels | {"labels": labels},
        pixels | {"labels.cls": labels},
        {"cls": lambda o: o.logits},
    )


CASES = {
    "bert": bert_pretraining,
    "bert_classifier": bert_classifier,
    "gpt2": gpt2,
    "llama": llama,
    "llama_grouped": lambda attention, side: llama(attention, side, num_key_value_heads=2),
    "llama_tied": lambda attention, side: llama(attention, side, tie_word_embeddings=True),
    "vit": vit,
}
# BERT's pooler reads column 0, which is padding when rows are padded on the left.
RIGHT_ONLY = ("bert", "bert_classifier", "vit")
SIDES = [(name, "right") for name in CASES]
SIDES += [(name, "left") for name in CASES if name not in RIGHT_ONLY]


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    case = CASES[name](attention, side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)
