"""Qwen3: LLaMA with norms of queries and keys, and a window in some blocks.

Yang et al. 2025 ("Qwen3 Technical Report"), section 2: Qwen2 without biases of query, key and
value, whose queries and keys are RMS-normed by head before they are rotated. Qwen3-Embedding is the
body of such a model with last-token pooling, Qwen3-Reranker one whose logits of "yes" and "no"
count.
"""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.families.layer_types import their_windows, window_options
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Qwen3Config``."""
    return llama.body_config(
        theirs,
        attention_bias=llama.attention_biases(theirs),
        options={"query_key_norm": "head", **window_options(theirs)},
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Qwen3Config``."""
    encoder = transformer_of(config)
    own: JsonObject = {
        "head_dim": encoder.size_of_head(config.dimensions),
        "attention_bias": encoder.has_bias("query"),
    }
    return llama.their_body(config) | own | their_windows(encoder)


_LM = Architecture(
    "Qwen3ForCausalLM", "qwen3", model_config, their_config, llama.table, llama.REPEATED
)
ARCHITECTURES = (_LM, *heads_of(_LM, answers_front="transformer"))
