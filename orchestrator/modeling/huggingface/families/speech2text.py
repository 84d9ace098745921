"""Speech2Text: transformers' ``Speech2TextForConditionalGeneration``, BART on spectrograms.

Their sine waves are as long as the input; here ``max_position_embeddings`` of either side says how
long that may be, and ``max_source_positions`` counts frames of the spectrogram.
"""

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.embeddings.configs import SinusoidalPosConfig, SpeechConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    expand,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families.bart import blocks, stacks, their_blocks
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.targets.token_configs import LmConfig

_CONV = "model.encoder.conv.conv_layers.{layer}"
_STRIDE = 2
_PAD = 1
"""Theirs marks padding frames with 1 and asks where that equals the padding token: with another one
sound and padding would change places."""


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Speech2TextConfig``."""
    kernels = theirs.integers("conv_kernel_sizes")
    theirs.require(tie_word_embeddings=True, input_channels=1, pad_token_id=_PAD)
    theirs.require(num_conv_layers=len(kernels))
    scale, dropout = theirs.flag("scale_embedding"), theirs.number("dropout")
    pad = theirs.integer("pad_token_id")
    waves = SinusoidalPosConfig(
        layout="halves", spacing="tensor2tensor", offset=pad + 1, pad_aware=True
    )
    speech = SpeechConfig(
        mel_bins=theirs.integer("input_feat_per_channel"),
        kernels=kernels,
        strides=(_STRIDE,) * len(kernels),
        channels=theirs.integer("conv_channels"),
        activation="glu",
        scale=scale,
    )
    return ModelConfig(
        hidden_size=theirs.integer("d_model"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_target_positions"),
        pad_token_id=pad,
        initializer_range=theirs.number("init_std"),
        embedding=EmbeddingStackConfig(
            parts=(speech, waves),
            layernorm=False,
            dropout=dropout,
            max_position_embeddings=theirs.integer("max_source_positions"),
        ),
        encoder=blocks(TransformerConfig, theirs, "pre"),
        target_embedding=EmbeddingStackConfig(
            parts=(WordConfig(scale=scale), waves), layernorm=False, dropout=dropout
        ),
        decoder=blocks(TransformerDecoderConfig, theirs, "pre"),
        target=(LmConfig(tie=True),),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Speech2TextConfig``."""
    speech = config.embedding.part("speech")
    if not isinstance(speech, SpeechConfig):
        raise InputError("only a model with a speech embedding has this form")
    return their_blocks(config) | {
        "max_source_positions": config.embedding.max_position_embeddings,
        "max_target_positions": config.max_position_embeddings,
        "input_feat_per_channel": speech.mel_bins,
        "num_conv_layers": len(speech.kernels),
        "conv_kernel_sizes": [*speech.kernels],
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
    Repeat("lm_head.weight", of="model.decoder.embed_tokens.weight"),
    Repeat("model.encoder.embed_positions.weights"),
    Repeat("model.decoder.embed_positions.weights"),
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
