"""Marian: transformers' ``MarianMTModel``, BART's kin without norms on embeddings.

The same parts as the original Transformer (Vaswani et al. 2017). Positions are fixed sine waves
that are computed; older files hold them as tables.
"""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.bart import (
    REPEATED,
    SHARED_WORDS,
    logits_bias,
    no_logits_bias,
    stacks,
    text_to_text,
    their_text_to_text,
)
from orchestrator.modeling.huggingface.keys import Row
from orchestrator.modeling.huggingface.values import require

_WAVES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``MarianConfig``."""
    require(theirs, share_encoder_decoder_embeddings=True, decoder_vocab_size=theirs["vocab_size"])
    positions = {"type": "sinusoidalpos", "layout": "halves"}
    return text_to_text(theirs, positions, norm_position="post", layernorm=False)


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of their config; decoders start with the padding token."""
    return their_text_to_text(config) | {"decoder_start_token_id": config.pad_token_id}


def table(config: ModelConfig) -> list[Row]:
    """Return every tensor of ``MarianMTModel``."""
    return [*SHARED_WORDS, *stacks(config), *logits_bias(config)]


ARCHITECTURES = (
    Architecture(
        "MarianMTModel",
        "marian",
        model_config,
        their_config,
        table,
        (*REPEATED, *_WAVES),
        no_logits_bias,
    ),
)
