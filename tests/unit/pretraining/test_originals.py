"""Presets in original size: they pass ``--check`` and have as many parameters as the originals.

They are checked only, never run: ``tests/integration/test_pretrain.py`` runs the presets directly
under ``jobs/configs``, which are small.
"""

from pathlib import Path

import pytest
import torch
import transformers as hf

from orchestrator.config import load_config
from orchestrator.pretraining import runner
from orchestrator.pretraining.config import PretrainConfig

FOLDER = Path(__file__).parents[3] / "jobs" / "configs" / "original"
T5 = {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_kv": 64}

DEBERTA_V3 = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}

# Name of the preset -> class and config with the published sizes.
ORIGINALS = {
    "bert_base": (hf.BertForPreTraining, hf.BertConfig()),
    "roberta_base": (
        hf.RobertaForMaskedLM,
        hf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    ),
    "modernbert_base": (hf.ModernBertForMaskedLM, hf.ModernBertConfig()),
    "deberta_v3_small": (
        hf.DebertaV2ForMaskedLM,
        hf.DebertaV2Config(**DEBERTA_V3, num_hidden_layers=6),
    ),
    "deberta_v3_base": (
        hf.DebertaV2ForMaskedLM,
        hf.DebertaV2Config(**DEBERTA_V3, num_hidden_layers=12),
    ),
    "albert_base": (
        hf.AlbertForPreTraining,
        hf.AlbertConfig(
            vocab_size=30000,
            embedding_size=128,
            hidden_size=768,
            num_attention_heads=12,
            intermediate_size=3072,
        ),
    ),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config()),
    "llama_7b": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            tie_word_embeddings=False,
        ),
    ),
    "t5_base": (hf.T5ForConditionalGeneration, hf.T5Config(vocab_size=32128, d_ff=3072, **T5)),
    "t5_v1_1_base": (
        hf.T5ForConditionalGeneration,
        hf.T5Config(
            vocab_size=32128,
            d_ff=2048,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            **T5,
        ),
    ),
    "bart_base": (
        hf.BartForConditionalGeneration,
        hf.BartConfig(
            vocab_size=50265,
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
        ),
    ),
    "pegasus_large": (
        hf.PegasusForConditionalGeneration,
        hf.PegasusConfig(
            vocab_size=96103,
            d_model=1024,
            encoder_layers=16,
            decoder_layers=16,
            encoder_ffn_dim=4096,
            decoder_ffn_dim=4096,
            encoder_attention_heads=16,
            decoder_attention_heads=16,
            scale_embedding=True,
        ),
    ),
    "vit_base": (hf.ViTForImageClassification, hf.ViTConfig(num_labels=10)),
    "beit_base": (
        hf.BeitForMaskedImageModeling,
        hf.BeitConfig(
            use_mask_token=True,
            use_shared_relative_position_bias=True,
            layer_scale_init_value=0.1,
        ),
    ),
    "clip_vit_b32": (hf.CLIPModel, hf.CLIPConfig()),
    "s2t_small": (hf.Speech2TextForConditionalGeneration, hf.Speech2TextConfig(vocab_size=10000)),
}
# Ours minus theirs, where that is not 0, part by part.
DIFFERENCES = {
    "t5_v1_1_base": {"an output layer of its own, which transformers 5 builds tied": 32128 * 768},
}


def size_of(kind, config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config).parameters())


def test_every_preset_is_compared():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ORIGINALS)


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_preset_has_the_size_of_the_original(name):
    text = runner.check(load_config(PretrainConfig, FOLDER / f"{name}.yaml"))
    expected = size_of(*ORIGINALS[name]) + sum(DIFFERENCES.get(name, {}).values())
    assert f"{expected:,} = " in text, text
