"""OLMo 2: LLaMA that normalizes what each sub-layer returns, and queries and keys as a whole.

OLMo team 2025 ("2 OLMo 2 Furious"), section 3: h = x + RMSNorm(attention(x)), h + RMSNorm(MLP(h)),
and RMSNorm of all heads of queries, and of keys, together.
"""

from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of

NORMS = {"post_attention_layernorm": "norm1", "post_feedforward_layernorm": "norm2"}


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for an ``Olmo2Config``."""
    return llama.body_config(
        theirs,
        attention_bias=llama.attention_biases(theirs),
        pads=True,
        options={"query_key_norm": "projection", "norm_position": "output"},
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of an ``Olmo2Config``."""
    own: JsonObject = {
        "pad_token_id": config.pad_token_id,
        "attention_bias": transformer_of(config).has_bias("query"),
    }
    return llama.their_body(config) | own


_LM = Architecture(
    "Olmo2ForCausalLM",
    "olmo2",
    model_config,
    their_config,
    partial(llama.table, norms=NORMS),
    llama.REPEATED,
)
ARCHITECTURES = (_LM, *heads_of(_LM, without=("ForTokenClassification", "ForQuestionAnswering")))
