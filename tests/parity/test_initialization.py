"""New weights spread as widely as those of transformers' classes, parameter by parameter."""

import math

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    BertConfig,
    BertForPreTraining,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from orchestrator.modeling.builder import build_model, build_target
from orchestrator.modeling.huggingface.folder import open_source
from orchestrator.modeling.targets.configs import ClsConfig
from tests.support.checkpoints import read_tensors

VOCAB, WIDTH = 300, 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 8,
}
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "eos_token_id": VOCAB - 1,
}
IMAGES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}


def t5_gated():
    """Return T5 v1.1: an output layer of its own, and nothing is divided."""
    config = T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    theirs = T5ForConditionalGeneration(config)
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, WIDTH))
    return theirs


MODELS = {
    "bert": lambda: BertForPreTraining(BertConfig(**SIZES)),
    "bert_wider": lambda: BertForPreTraining(BertConfig(**SIZES, initializer_range=0.05)),
    "bert_headless": lambda: BertModel(BertConfig(**SIZES)),
    "albert": lambda: AlbertForPreTraining(AlbertConfig(**SIZES, embedding_size=32)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=3, n_head=4, initializer_range=0.03)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2)),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCAB, hidden_size=WIDTH, n_layer=2, n_head=4)
    ),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "t5_gated": t5_gated,
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=IMAGES)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_new_weights_spread_as_in_the_reference(name, tmp_path):
    torch.manual_seed(1)
    MODELS[name]().save_pretrained(tmp_path)
    source = open_source(tmp_path)
    expected = read_tensors(source)
    found = dict(build_model(source.config).named_parameters())
    assert set(found) == set(expected)
    for key, theirs in expected.items():
        ours = found[key].detach()
        if not theirs.any() or theirs.unique().numel() == 1:
            assert torch.equal(ours, theirs), key
            continue
        # standard errors of a standard deviation and of a mean, each of two samples
        error = 5 / math.sqrt(ours.numel())
        assert abs(math.log(ours.std() / theirs.std())) < error, (key, ours.std(), theirs.std())
        assert abs(ours.mean()) < error * theirs.std(), key


def test_a_rule_holds_for_new_heads_too(tmp_path):
    torch.manual_seed(1)
    MODELS["t5"]().save_pretrained(tmp_path)
    head = build_target(ClsConfig(num_labels=40, hidden=True), open_source(tmp_path).config)
    for layer in (head.dense, head.output):
        assert layer.weight.std().item() == pytest.approx(WIDTH**-0.5, rel=0.05)
        assert not layer.bias.any()
