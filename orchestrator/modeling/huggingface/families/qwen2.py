"""Qwen2: LLaMA with biases of query, key and value, and a window in some blocks."""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.families.layer_types import their_windows, window_options
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.block_options import Projection


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Qwen2Config``."""
    biases: tuple[Projection, ...] = ("query", "key", "value")
    return llama.body_config(theirs, attention_bias=biases, options=window_options(theirs))


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Qwen2Config``."""
    return llama.their_body(config) | their_windows(transformer_of(config))


_LM = Architecture(
    "Qwen2ForCausalLM", "qwen2", model_config, their_config, llama.table, llama.REPEATED
)
ARCHITECTURES = (_LM, *heads_of(_LM, answers_front="transformer"))
