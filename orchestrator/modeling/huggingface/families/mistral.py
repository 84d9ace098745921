"""Mistral: LLaMA with a sliding window (Jiang et al. 2023)."""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``MistralConfig``."""
    return llama.body_config(theirs, options={"window": theirs.optional_integer("sliding_window")})


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``MistralConfig``."""
    encoder = transformer_of(config)
    return llama.their_body(config) | {
        "head_dim": encoder.size_of_head(config.dimensions),
        "sliding_window": encoder.window,
    }


_LM = Architecture(
    "MistralForCausalLM", "mistral", model_config, their_config, llama.table, llama.REPEATED
)
ARCHITECTURES = (_LM, *heads_of(_LM))
