"""PEGASUS: transformers' ``PegasusForConditionalGeneration``, BART with pre-norm blocks.

Its positions are fixed sine waves that its files hold as tables; those of transformers 3 and 4 lack
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import SinusoidalPosConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Row, weight
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


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``PegasusConfig``."""
    positions = SinusoidalPosConfig(layout="halves", stored=True)
    return text_to_text(theirs, positions, norm_position="pre", layernorm=False)


def computed(config: ModelConfig) -> dict[str, Tensor]:
    """Return the tables of both sides and the logits bias of a new model."""
    tables = {
        f"model.{side}.embed_positions.weight": wave_table(config.embedding, config.dimensions)
        for side in ("encoder", "decoder")
    }
    return no_logits_bias(config) | tables


def table(config: ModelConfig) -> list[Row]:
    """Return every tensor of ``PegasusForConditionalGeneration``."""
    return [
        *SHARED_WORDS,
        weight("model.encoder.embed_positions", "embedding.sinusoidalpos"),
        weight("model.decoder.embed_positions", "target_embedding.sinusoidalpos"),
        *stacks(config),
        *logits_bias(config),
    ]


ARCHITECTURES = (
    Architecture(
        "PegasusForConditionalGeneration",
        "pegasus",
        model_config,
        their_started_with_padding,
        table,
        REPEATED,
        computed,
    ),
)
