"""Qwen2: LLaMA with biases of query, key and value, and a window in the later blocks."""

from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.values import transformer_of

FULL, SLIDING = "full_attention", "sliding_attention"


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``Qwen2Config``."""
    ours = llama.body_config(theirs)
    biases = {"attention_bias": ["query", "key", "value"]}
    return ours | {"encoder": ours["encoder"] | biases | window_config(theirs)}


def window_config(theirs: Values) -> dict[str, Any]:
    """Return which blocks have which window.

    Raises:
        InputError: Blocks with a window come before blocks without.
    """
    types = theirs["layer_types"]
    first = types.index(SLIDING) if SLIDING in types else len(types)
    if types != [FULL] * first + [SLIDING] * (len(types) - first):
        raise InputError(
            f"layer_types: {types} is not supported; only {FULL} and then {SLIDING} is."
        )
    if first == len(types):
        return {}
    return {"window": theirs["sliding_window"], "window_from": first}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``Qwen2Config``."""
    encoder = transformer_of(config)
    values = llama.their_body(config) | {"use_sliding_window": encoder.window is not None}
    if encoder.window is None:
        return values
    first = encoder.window_from
    types = [FULL] * first + [SLIDING] * (encoder.num_layers - first)
    sliding = {"sliding_window": encoder.window, "max_window_layers": first}
    return values | sliding | {"layer_types": types}


ARCHITECTURES = (
    Architecture(
        "Qwen2ForCausalLM", "qwen2", model_config, their_config, llama.table, llama.REPEATED
    ),
)
