"""Marian: transformers' ``MarianMTModel``, BART without norms on embeddings.

The same parts as the original Transformer (Vaswani et al. 2017). Positions are fixed sine waves
that are computed; older files hold them as tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import SinusoidalPosConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
)
from orchestrator.modeling.huggingface.families.bart import (
    REPEATED,
    SHARED_WORDS,
    logits_bias,
    no_logits_bias,
    stacks,
    text_to_text,
    their_started_with_padding,
    wave_table,
)
from orchestrator.modeling.huggingface.values import Values

if TYPE_CHECKING:
    from torch import Tensor


def waves(config: ModelConfig) -> Tensor:
    """Return the sine table of either side, which our model computes, [positions, D]."""
    return wave_table(config.embedding, config.dimensions)


_WAVES = tuple(
    Repeat(f"model.{side}.embed_positions.weight", value=waves) for side in ("encoder", "decoder")
)


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``MarianConfig``."""
    vocab_size = theirs.integer("vocab_size")
    theirs.require(share_encoder_decoder_embeddings=True, decoder_vocab_size=vocab_size)
    positions = SinusoidalPosConfig(layout="halves")
    return text_to_text(theirs, positions, norm_position="post", layernorm=False)


def table(config: ModelConfig) -> list[Row]:
    """Return every tensor of ``MarianMTModel``."""
    return [*SHARED_WORDS, *stacks(config), *logits_bias(config)]


ARCHITECTURES = (
    Architecture(
        "MarianMTModel",
        "marian",
        model_config,
        their_started_with_padding,
        table,
        (*REPEATED, *_WAVES),
        no_logits_bias,
    ),
)
