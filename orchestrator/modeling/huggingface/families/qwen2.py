"""Qwen2: LLaMA with biases of query, key and value, and a window in the later blocks."""

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.block_options import Projection

FULL, SLIDING = "full_attention", "sliding_attention"


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Qwen2Config``."""
    window, first = window_config(theirs)
    biases: tuple[Projection, ...] = ("query", "key", "value")
    return llama.body_config(theirs, attention_bias=biases, window=window, window_from=first)


def window_config(theirs: Values) -> tuple[int | None, int]:
    """Return the window, and the first block that has it.

    Raises:
        InputError: Blocks with a window come before blocks without.
    """
    types = [*theirs.texts("layer_types")]
    first = types.index(SLIDING) if SLIDING in types else len(types)
    if types != [FULL] * first + [SLIDING] * (len(types) - first):
        raise InputError(
            f"layer_types: {types} is not supported; only {FULL} and then {SLIDING} is."
        )
    if first == len(types):
        return None, 0
    return theirs.integer("sliding_window"), first


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Qwen2Config``."""
    encoder = transformer_of(config)
    values = llama.their_body(config) | {"use_sliding_window": encoder.window is not None}
    if encoder.window is None:
        return values
    first = encoder.window_from
    types = [FULL] * first + [SLIDING] * (encoder.num_layers - first)
    values |= {"sliding_window": encoder.window, "max_window_layers": first}
    return values | {"layer_types": [*types]}


_LM = Architecture(
    "Qwen2ForCausalLM", "qwen2", model_config, their_config, llama.table, llama.REPEATED
)
ARCHITECTURES = (_LM, *heads_of(_LM, answers_front="transformer"))
