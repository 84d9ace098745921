"""LLaMA: transformers' ``LlamaForCausalLM`` as word, rotary RMS-normed gated encoder, and lm.

Rows and values serve its relatives too (Mistral, Qwen2 and 3, Mixtral, SmolLM3, Phi-3, OLMo 2,
Gemma 2 and 3).
"""

from collections.abc import Mapping

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    expand,
    same,
    weight,
)
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    their_activation,
    transformer_of,
)
from orchestrator.modeling.layers.block_options import (
    LinearScaling,
    Llama3Scaling,
    Projection,
    RotaryConfig,
    YarnScaling,
)
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.token_configs import LmConfig

_LAYER = "model.layers.{layer}"
_OURS = "encoder.layers.{layer}"

PROJECTIONS: dict[str, Projection] = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
}
"""Their names of the linear layers of attention → ours."""

NORMS = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
"""Their names of the norms of a block → ours."""
OUTSIDE: Table = (
    weight("model.embed_tokens", "embedding.word"),
    weight("model.norm", "encoder.norm"),
)
ATTENTION: Table = tuple(
    weight(f"{_LAYER}.self_attn.{theirs}", f"{_OURS}.attention.{ours}")
    for theirs, ours in PROJECTIONS.items()
)
QUERY_KEY_NORMS: Table = tuple(
    weight(f"{_LAYER}.self_attn.{theirs}_norm", f"{_OURS}.attention.{ours}_norm")
    for theirs, ours in (("q", "query"), ("k", "key"))
)
FEED_FORWARD: Table = (
    weight(f"{_LAYER}.mlp.gate_proj", f"{_OURS}.feed_forward.gate"),
    weight(f"{_LAYER}.mlp.up_proj", f"{_OURS}.feed_forward.up"),
    weight(f"{_LAYER}.mlp.down_proj", f"{_OURS}.feed_forward.down"),
)
FEED_FORWARD_BIAS: Table = tuple(
    same(f"{_LAYER}.mlp.{part}_proj.bias", f"{_OURS}.feed_forward.{part}.bias")
    for part in ("gate", "up", "down")
)
UNTIED: Table = (weight("lm_head", "targets.lm.output"),)
REPEATED = (
    Repeat("lm_head.weight", of="model.embed_tokens.weight"),
    Repeat("model.layers.*.self_attn.rotary_emb.inv_freq"),
)
ScalingType = type[LinearScaling] | type[Llama3Scaling] | type[YarnScaling]
SCALINGS: dict[str, ScalingType | None] = {
    "default": None,
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
}
"""Their ``rope_type`` → options of our scaling."""


def body_config(
    theirs: Values,
    *,
    bias: bool = False,
    attention_bias: tuple[Projection, ...] | None = None,
    activation: str = "hidden_act",
    rotary: RotaryConfig | None = None,
    pads: bool = False,
    more_targets: tuple[TargetConfig, ...] = (),
    options: Mapping[str, object] | None = None,
) -> ModelConfig:
    """Return our model config for any relative of LLaMA.

    Args:
        theirs: Their config.
        bias: Whether linear layers have biases.
        attention_bias: Linear layers of attention with a bias; None: as `bias` says.
        activation: Their name of the option.
        rotary: Rotary positions; None: those of `rope_parameters`.
        pads: Whether their class has a padding token by default, so that the id is read.
        more_targets: Targets after the language model.
        options: Other options of the encoder, as our config holds them.
    """
    heads = theirs.integer("num_attention_heads")
    encoder = TransformerConfig(
        num_layers=theirs.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=theirs.integer("num_key_value_heads"),
        head_size=theirs.optional_integer("head_dim") or theirs.integer("hidden_size") // heads,
        intermediate_size=theirs.integer("intermediate_size"),
        norm_position="pre",
        norm="rms",
        norm_eps=theirs.number("rms_norm_eps"),
        activation=theirs.activation(activation),
        feed_forward="gated",
        bias=bias,
        attention_bias=attention_bias,
        mask="causal",
        rotary=rotary or rotary_config(theirs.section("rope_parameters")),
        dropout=0.0,
        attention_dropout=theirs.number("attention_dropout", 0.0),
    )
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        pad_token_id=theirs.integer("pad_token_id", 0) if pads else 0,
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(parts=(WordConfig(),), layernorm=False, dropout=0.0),
        encoder=encoder.model_copy(update=options or {}),
        target=(LmConfig(tie=theirs.flag("tie_word_embeddings")), *more_targets),
    )


def rotary_config(theirs: Values, *, partial: bool = False) -> RotaryConfig:
    """Return base, share and scaling of rotary positions for their ``rope_parameters``.

    Args:
        theirs: The section.
        partial: Whether the class can rotate a part of a head.

    Raises:
        InputError: The type of scaling is not supported, or only a part of a head is rotated by a
            class that cannot.
    """
    share = theirs.number("partial_rotary_factor", 1.0)
    if share != 1.0 and not partial:
        raise InputError(f"partial_rotary_factor: {share} is not supported; only 1.0 is.")
    kind, theta = theirs.choice("rope_type", SCALINGS), theirs.number("rope_theta")
    if kind is None:
        return RotaryConfig(theta=theta, share=share)
    own = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    scaling = kind.model_validate(theirs.without(own))
    return RotaryConfig(theta=theta, share=share, scaling=scaling)


def their_rotary(rotary: RotaryConfig | None, *, partial: bool = False) -> JsonObject:
    """Return their ``rope_parameters``, with the share where the class reads it."""
    if rotary is None:
        return {}
    scaling = rotary.scaling
    options: JsonObject = {}
    if scaling is not None:
        options = scaling.model_dump(mode="json", exclude={"type"}, exclude_none=True)
    kind = "default" if scaling is None else scaling.type
    share = {"partial_rotary_factor": rotary.share} if partial else {}
    return {"rope_type": kind, "rope_theta": rotary.theta, **share, **options}


def attention_biases(theirs: Values) -> tuple[Projection, ...] | None:
    """Return the linear layers of attention with a bias; None: none, as in the feed-forward."""
    return tuple(PROJECTIONS.values()) if theirs.flag("attention_bias") else None


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``LlamaConfig``."""
    attention, feed_forward = theirs.flag("attention_bias"), theirs.flag("mlp_bias")
    own = tuple(PROJECTIONS.values()) if attention else ()
    biases = None if attention == feed_forward else own
    return body_config(theirs, bias=feed_forward, attention_bias=biases)


def their_body(config: ModelConfig) -> JsonObject:
    """Return the values that all relatives of LLaMA have."""
    encoder = transformer_of(config)
    return {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "num_key_value_heads": encoder.num_kv_heads or encoder.num_heads,
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "rms_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "attention_dropout": encoder.attention_dropout,
        "rope_parameters": their_rotary(encoder.rotary),
        "tie_word_embeddings": is_tied(config),
    }


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``LlamaConfig``."""
    encoder = transformer_of(config)
    return their_body(config) | {
        "head_dim": encoder.size_of_head(config.dimensions),
        "attention_bias": encoder.has_bias("query"),
        "mlp_bias": encoder.bias,
    }


def is_tied(config: ModelConfig) -> bool:
    """Return whether the output layer is the word table."""
    return all(target.ties_words for target in config.target if target.type_name() == "lm")


def outer_rows(config: ModelConfig, norms: Mapping[str, str] = NORMS) -> list[Row]:
    """Return the rows outside of blocks and of their norms, layers not yet written out."""
    rows = [*OUTSIDE, *(() if is_tied(config) else UNTIED)]
    return rows + [weight(f"{_LAYER}.{each}", f"{_OURS}.{norms[each]}") for each in norms]


def body_table(config: ModelConfig, norms: Mapping[str, str] = NORMS) -> list[Row]:
    """Return every row but those of the feed-forward, layers not yet written out."""
    encoder = transformer_of(config)
    rows = [*outer_rows(config, norms), *ATTENTION]
    if encoder.query_key_norm != "none":
        rows += QUERY_KEY_NORMS
    for theirs, ours in PROJECTIONS.items():
        if encoder.has_bias(ours):
            bias = same(f"{_LAYER}.self_attn.{theirs}.bias", f"{_OURS}.attention.{ours}.bias")
            rows.append(bias)
    return rows


def table(config: ModelConfig, norms: Mapping[str, str] = NORMS) -> list[Row]:
    """Return every parameter of ``LlamaForCausalLM`` or a relative with the same names."""
    encoder = transformer_of(config)
    biases = FEED_FORWARD_BIAS if encoder.bias else ()
    return expand((*body_table(config, norms), *FEED_FORWARD, *biases), encoder.num_layers)


_LM = Architecture("LlamaForCausalLM", "llama", model_config, their_config, table, REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, answers_front="transformer"))
