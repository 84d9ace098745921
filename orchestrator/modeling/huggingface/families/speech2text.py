"""Speech2Text: transformers' ``Speech2TextForConditionalGeneration``, BART's kin that hears.

Their sine waves are as long as the input; here ``max_position_embeddings`` of either side says how
long that may be, and ``max_source_positions`` counts frames of the spectrogram.
"""

from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import SpeechConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.bart import blocks, stacks, their_blocks
from orchestrator.modeling.huggingface.keys import Row, expand, linear, weight
from orchestrator.modeling.huggingface.values import require

_CONV = "model.encoder.conv.conv_layers.{layer}"
_STRIDE = 2
_PAD = 1
"""Theirs marks padding frames with 1 and asks where that equals the padding token: with another one
sound and padding would change places."""


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``Speech2TextConfig``."""
    require(theirs, tie_word_embeddings=True, input_channels=1, pad_token_id=_PAD)
    require(theirs, num_conv_layers=len(theirs["conv_kernel_sizes"]))
    scale, pad = theirs["scale_embedding"], theirs["pad_token_id"]
    waves = {
        "type": "sinusoidalpos",
        "layout": "halves",
        "spacing": "tensor2tensor",
        "offset": pad + 1,
        "pad_aware": True,
    }
    speech = {
        "type": "speech",
        "mel_bins": theirs["input_feat_per_channel"],
        "kernels": theirs["conv_kernel_sizes"],
        "strides": [_STRIDE] * len(theirs["conv_kernel_sizes"]),
        "channels": theirs["conv_channels"],
        "activation": "glu",
        "scale": scale,
    }
    either = {"layernorm": False, "dropout": theirs["dropout"]}
    words = {"type": "word", "scale": scale}
    length = theirs["max_source_positions"]
    return {
        "hidden_size": theirs["d_model"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["max_target_positions"],
        "pad_token_id": pad,
        "initializer_range": theirs["init_std"],
        "embedding": either | {"parts": [speech, waves], "max_position_embeddings": length},
        "encoder": blocks(theirs, "encoder", "pre"),
        "target_embedding": either | {"parts": [words, waves]},
        "decoder": blocks(theirs, "decoder", "pre"),
        "target": [{"type": "lm", "tie": True}],
    }


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``Speech2TextConfig``."""
    speech = config.embedding.part("speech")
    if not isinstance(speech, SpeechConfig):
        raise InputError("only a model with a speech embedding has this form")
    return their_blocks(config) | {
        "max_source_positions": config.embedding.max_position_embeddings,
        "max_target_positions": config.max_position_embeddings,
        "input_feat_per_channel": speech.mel_bins,
        "num_conv_layers": len(speech.kernels),
        "conv_kernel_sizes": list(speech.kernels),
        "conv_channels": speech.channels,
        "scale_embedding": speech.scale,
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``Speech2TextForConditionalGeneration``."""
    speech = config.embedding.part("speech")
    count = len(speech.kernels) if isinstance(speech, SpeechConfig) else 0
    return [
        weight("model.decoder.embed_tokens", "target_embedding.word"),
        *expand(linear(_CONV, "embedding.speech.convolutions.{layer}"), count),
        *stacks(config),
    ]


REPEATED = (
    "lm_head.weight",
    "model.encoder.embed_positions.weights",
    "model.decoder.embed_positions.weights",
)

ARCHITECTURES = (
    Architecture(
        "Speech2TextForConditionalGeneration",
        "speech_to_text",
        model_config,
        their_config,
        table,
        REPEATED,
        processor="log_mel",
        pad_token_id=_PAD,
    ),
)
