"""SmolLM3: LLaMA without positions in some blocks (NoPE), and a window in some blocks.

Bakouch et al. 2025 ("SmolLM3"): every fourth block leaves queries and keys as they are, as in Yang
et al. 2025 ("RoPE to NoPE and back again").
"""

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.families.layer_types import their_windows, window_options
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``SmolLM3Config``.

    Raises:
        InputError: No block has rotary positions.
    """
    layers = theirs.integer("num_hidden_layers")
    turned = theirs.integers("no_rope_layers")[:layers]  # 1: the block has rotary positions
    rotated = tuple(block for block, rotary in enumerate(turned) if rotary)
    if not rotated:
        raise InputError("no_rope_layers: no block has rotary positions; at least one must.")
    feed_forward = theirs.flag("mlp_bias")
    attention = llama.attention_biases(theirs) or ()
    return llama.body_config(
        theirs,
        bias=feed_forward,
        pads=True,
        attention_bias=None if bool(attention) == feed_forward else attention,
        options={
            "rotary_layers": None if len(rotated) == layers else rotated,
            **window_options(theirs),
        },
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``SmolLM3Config``."""
    encoder = transformer_of(config)
    blocks = range(encoder.num_layers)
    own: JsonObject = {
        "no_rope_layers": [int(encoder.rotary_of(block) is not None) for block in blocks],
        "pad_token_id": config.pad_token_id,
        "attention_bias": encoder.has_bias("query"),
        "mlp_bias": encoder.bias,
    }
    return llama.their_body(config) | own | their_windows(encoder)


_LM = Architecture(
    "SmolLM3ForCausalLM", "smollm3", model_config, their_config, llama.table, llama.REPEATED
)
ARCHITECTURES = (_LM, *heads_of(_LM, answers_front="transformer"))
