"""PEGASUS: transformers' ``PegasusForConditionalGeneration``, BART's pre-norm kin.

Its positions are fixed sine waves that its files hold as tables.
"""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.bart import (
    LOGITS_BIAS,
    REPEATED,
    SHARED_WORDS,
    stacks,
    text_to_text,
    their_text_to_text,
)
from orchestrator.modeling.huggingface.keys import Row, weight


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``PegasusConfig``."""
    positions = {"type": "sinusoidalpos", "layout": "halves", "stored": True}
    return text_to_text(theirs, positions, norm_position="pre", layernorm=False)


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of their config; decoders start with the padding token."""
    return their_text_to_text(config) | {"decoder_start_token_id": config.pad_token_id}


def table(config: ModelConfig) -> list[Row]:
    """Return every tensor of ``PegasusForConditionalGeneration``."""
    return [
        *SHARED_WORDS,
        weight("model.encoder.embed_positions", "embedding.sinusoidalpos"),
        weight("model.decoder.embed_positions", "target_embedding.sinusoidalpos"),
        *stacks(config),
        *LOGITS_BIAS,
    ]


ARCHITECTURES = (
    Architecture(
        "PegasusForConditionalGeneration",
        "pegasus",
        model_config,
        their_config,
        table,
        REPEATED,
    ),
)
