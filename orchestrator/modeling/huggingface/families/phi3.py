"""Phi-3 and Phi-4-mini: LLaMA with fused projections, a window, and waves of their own (LongRoPE).

Abdin et al. 2024 ("Phi-3 Technical Report"). Query, key and value are one tensor, gate and up of
the feed-forward another. Phi-4-mini rotates a share of each head.
"""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Row, expand, weight
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.block_options import LongRopeScaling, RotaryConfig

_LAYER, _OURS = "model.layers.{layer}", "encoder.layers.{layer}"
_QKV = tuple(f"{_OURS}.attention.{name}.weight" for name in ("query", "key", "value"))
_GATED = tuple(f"{_OURS}.feed_forward.{name}.weight" for name in ("gate", "up"))


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Phi3Config``; nothing reads its ``embd_pdrop``."""
    return llama.body_config(
        theirs,
        rotary=rotary_config(theirs),
        pads=True,
        options={
            "window": theirs.optional_integer("sliding_window"),
            "dropout": theirs.number("resid_pdrop"),
        },
    )


def rotary_config(theirs: Values) -> RotaryConfig:
    """Return base, share and scaling of rotary positions."""
    rope = theirs.section("rope_parameters")
    if rope.text("rope_type") != "longrope":
        return llama.rotary_config(rope, partial=True)
    length = theirs.integer("max_position_embeddings")
    ratio = length / rope.integer("original_max_position_embeddings")
    own = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    factor = max(1.0, rope.number("factor", ratio))
    return RotaryConfig(
        theta=rope.number("rope_theta"),
        share=rope.number("partial_rotary_factor", 1.0),
        scaling=LongRopeScaling.model_validate(rope.without(own) | {"factor": factor}),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Phi3Config``."""
    encoder = transformer_of(config)
    values: JsonObject = {
        "pad_token_id": config.pad_token_id,
        "resid_pdrop": encoder.dropout,
        "sliding_window": encoder.window,
        "rope_parameters": llama.their_rotary(encoder.rotary, partial=True),
    }
    scaling = None if encoder.rotary is None else encoder.rotary.scaling
    if isinstance(scaling, LongRopeScaling):
        values["original_max_position_embeddings"] = scaling.original_max_position_embeddings
    return llama.their_body(config) | values


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``Phi3ForCausalLM``."""
    encoder = transformer_of(config)
    head_size = encoder.size_of_head(config.dimensions)
    kv_heads = encoder.num_kv_heads or encoder.num_heads
    sizes = tuple(count * head_size for count in (encoder.num_heads, kv_heads, kv_heads))
    rows = (
        *llama.outer_rows(config),
        Row((f"{_LAYER}.self_attn.qkv_proj.weight",), _QKV, sizes=sizes),
        weight(f"{_LAYER}.self_attn.o_proj", f"{_OURS}.attention.output"),
        Row((f"{_LAYER}.mlp.gate_up_proj.weight",), _GATED),
        weight(f"{_LAYER}.mlp.down_proj", f"{_OURS}.feed_forward.down"),
    )
    return expand(rows, encoder.num_layers)


_LM = Architecture("Phi3ForCausalLM", "phi3", model_config, their_config, table, llama.REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, without=("ForQuestionAnswering",)))
