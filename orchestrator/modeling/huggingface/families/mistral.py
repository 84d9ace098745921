"""Mistral: LLaMA with a sliding window (Jiang et al. 2023)."""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.values import transformer_of


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``MistralConfig``."""
    ours = llama.body_config(theirs)
    return ours | {"encoder": ours["encoder"] | {"window": theirs["sliding_window"]}}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``MistralConfig``."""
    encoder = transformer_of(config)
    return llama.their_body(config) | {
        "head_dim": encoder.size_of_head(config.dimensions),
        "sliding_window": encoder.window,
    }


ARCHITECTURES = (
    Architecture(
        "MistralForCausalLM",
        "mistral",
        model_config,
        their_config,
        llama.table,
        llama.REPEATED,
    ),
)
