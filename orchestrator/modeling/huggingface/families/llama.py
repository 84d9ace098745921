"""LLaMA: transformers' ``LlamaForCausalLM`` as word, rotary RMS-normed gated encoder, and lm.

Rows and values serve its relatives too (Mistral, Qwen2, Mixtral).
"""

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
    ExpertsConfig,
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

ATTENTION: Table = (
    weight("model.embed_tokens", "embedding.word"),
    *(weight(f"{_LAYER}.self_attn.{p}", f"{_OURS}.attention.{q}") for p, q in PROJECTIONS.items()),
    weight(f"{_LAYER}.input_layernorm", f"{_OURS}.norm1"),
    weight(f"{_LAYER}.post_attention_layernorm", f"{_OURS}.norm2"),
    weight("model.norm", "encoder.norm"),
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
SCALINGS: dict[str, type[LinearScaling] | type[Llama3Scaling] | type[YarnScaling] | None] = {
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
    window: int | None = None,
    window_from: int = 0,
    experts: ExpertsConfig | None = None,
    more_targets: tuple[TargetConfig, ...] = (),
) -> ModelConfig:
    """Return our model config for any relative of LLaMA.

    Args:
        theirs: Their config.
        bias: Whether linear layers have biases.
        attention_bias: Linear layers of attention with a bias; None: as `bias` says.
        window: Positions that a position may look back.
        window_from: First block with the window.
        experts: Feed-forwards of a block, where there are several.
        more_targets: Targets after the language model.
    """
    heads = theirs.integer("num_attention_heads")
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(parts=(WordConfig(),), layernorm=False, dropout=0.0),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=theirs.integer("num_key_value_heads"),
            head_size=theirs.optional_integer("head_dim") or theirs.integer("hidden_size") // heads,
            intermediate_size=theirs.integer("intermediate_size"),
            norm_position="pre",
            norm="rms",
            norm_eps=theirs.number("rms_norm_eps"),
            activation=theirs.activation("hidden_act"),
            feed_forward="gated",
            bias=bias,
            attention_bias=attention_bias,
            mask="causal",
            rotary=rotary_config(theirs.section("rope_parameters")),
            window=window,
            window_from=window_from,
            experts=experts,
            dropout=0.0,
            attention_dropout=theirs.number("attention_dropout"),
        ),
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


def their_rotary(encoder: TransformerConfig, *, partial: bool = False) -> JsonObject:
    """Return their ``rope_parameters``, with the share where the class reads it."""
    if encoder.rotary is None:
        return {}
    scaling = encoder.rotary.scaling
    options = {} if scaling is None else scaling.model_dump(exclude={"type"}, exclude_none=True)
    kind = "default" if scaling is None else scaling.type
    share = {"partial_rotary_factor": encoder.rotary.share} if partial else {}
    return {"rope_type": kind, "rope_theta": encoder.rotary.theta, **share, **options}


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
        "rope_parameters": their_rotary(encoder),
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


def body_table(config: ModelConfig) -> list[Row]:
    """Return every row but those of the feed-forward, layers not yet written out."""
    encoder = transformer_of(config)
    rows = [*ATTENTION, *(() if is_tied(config) else UNTIED)]
    for theirs, ours in PROJECTIONS.items():
        if encoder.has_bias(ours):
            bias = same(f"{_LAYER}.self_attn.{theirs}.bias", f"{_OURS}.attention.{ours}.bias")
            rows.append(bias)
    return rows


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``LlamaForCausalLM`` or a relative with the same names."""
    encoder = transformer_of(config)
    biases = FEED_FORWARD_BIAS if encoder.bias else ()
    return expand((*body_table(config), *FEED_FORWARD, *biases), encoder.num_layers)


_LM = Architecture("LlamaForCausalLM", "llama", model_config, their_config, table, REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, answers_front="transformer"))
