"""Whisper: transformers' ``WhisperForConditionalGeneration``, BART on 30 seconds of sound.

Spectrograms are [B, frames, mel bins] here and the transpose there, always of the full length and
without a mask. The encoder's sine waves are stored in their files, the decoder's positions are
learned. Hiding parts of the input in training (``apply_spec_augment``) is the processor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.embeddings.configs import (
    PosConfig,
    SinusoidalPosConfig,
    SpeechConfig,
    WordConfig,
)
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families.bart import blocks, stacks, their_blocks, wave_table
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.layers.block_options import Projection
from orchestrator.modeling.targets.token_configs import LmConfig

if TYPE_CHECKING:
    from torch import Tensor

_BIASES: tuple[Projection, ...] = ("query", "value", "output")
_KERNELS, _STRIDES = (3, 3), (1, 2)


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``WhisperConfig``."""
    theirs.require(tie_word_embeddings=True, scale_embedding=False)
    speech = SpeechConfig(
        mel_bins=theirs.integer("num_mel_bins"),
        kernels=_KERNELS,
        strides=_STRIDES,
        activation="gelu",
    )
    waves = SinusoidalPosConfig(layout="halves", spacing="tensor2tensor", stored=True)
    return ModelConfig(
        hidden_size=theirs.integer("d_model"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_target_positions"),
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("init_std"),
        embedding=EmbeddingStackConfig(
            parts=(speech, waves),
            layernorm=False,
            dropout=theirs.number("dropout"),
            max_position_embeddings=theirs.integer("max_source_positions"),
        ),
        encoder=blocks(TransformerConfig, theirs, "pre", _BIASES),
        target_embedding=EmbeddingStackConfig(
            parts=(WordConfig(), PosConfig()), layernorm=False, dropout=theirs.number("dropout")
        ),
        decoder=blocks(TransformerDecoderConfig, theirs, "pre", _BIASES),
        target=(LmConfig(tie=True),),
    )


def their_config(config: ModelConfig) -> JsonObject:
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
        (Repeat("proj_out.weight", of="model.decoder.embed_tokens.weight"),),
        computed,
        processor="log_mel",
    ),
)
