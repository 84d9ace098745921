"""Whisper: transformers' ``WhisperForConditionalGeneration``, BART's kin that hears 30 seconds.

Spectrograms are [B, frames, mel bins] here and the transpose there, always of the full length and
without a mask. The encoder's sine waves are stored in their files, the decoder's positions are
learned. Hiding parts of the input in training (``apply_spec_augment``) is the processor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import SpeechConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.bart import blocks, stacks, their_blocks, wave_table
from orchestrator.modeling.huggingface.keys import Row, linear, weight
from orchestrator.modeling.huggingface.values import require

if TYPE_CHECKING:
    from torch import Tensor

_BIASES = ("query", "value", "output")
_KERNELS, _STRIDES = (3, 3), (1, 2)


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``WhisperConfig``."""
    require(theirs, tie_word_embeddings=True, scale_embedding=False)
    speech = {
        "type": "speech",
        "mel_bins": theirs["num_mel_bins"],
        "kernels": _KERNELS,
        "strides": _STRIDES,
        "activation": "gelu",
    }
    waves = {
        "type": "sinusoidalpos",
        "layout": "halves",
        "spacing": "tensor2tensor",
        "stored": True,
    }
    either = {"layernorm": False, "dropout": theirs["dropout"]}
    length = theirs["max_source_positions"]
    biases = {"attention_bias": _BIASES}
    return {
        "hidden_size": theirs["d_model"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["max_target_positions"],
        "pad_token_id": theirs["pad_token_id"],
        "initializer_range": theirs["init_std"],
        "embedding": either | {"parts": [speech, waves], "max_position_embeddings": length},
        "encoder": blocks(theirs, "encoder", "pre") | biases,
        "target_embedding": either | {"parts": ["word", "pos"]},
        "decoder": blocks(theirs, "decoder", "pre") | biases,
        "target": [{"type": "lm", "tie": True}],
    }


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``WhisperConfig``."""
    speech = config.embedding.part("speech")
    if not isinstance(speech, SpeechConfig):
        raise InputError("only a model with a speech embedding has this form")
    return their_blocks(config) | {
        "max_source_positions": config.embedding.max_position_embeddings,
        "max_target_positions": config.max_position_embeddings,
        "num_mel_bins": speech.mel_bins,
    }


def computed(config: ModelConfig) -> dict[str, Tensor]:
    """Return the encoder's sine table."""
    table = wave_table(config.embedding, config.dimensions)
    return {"model.encoder.embed_positions.weight": table}


def table(config: ModelConfig) -> list[Row]:
    """Return every tensor of ``WhisperForConditionalGeneration``."""
    return [
        weight("model.decoder.embed_tokens", "target_embedding.word"),
        weight("model.decoder.embed_positions", "target_embedding.pos"),
        weight("model.encoder.embed_positions", "embedding.sinusoidalpos"),
        *linear("model.encoder.conv1", "embedding.speech.convolutions.0"),
        *linear("model.encoder.conv2", "embedding.speech.convolutions.1"),
        *stacks(config),
    ]


ARCHITECTURES = (
    Architecture(
        "WhisperForConditionalGeneration",
        "whisper",
        model_config,
        their_config,
        table,
        ("proj_out.weight",),
        computed,
        processor="log_mel",
    ),
)
