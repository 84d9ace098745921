"""GPT-2: transformers' ``GPT2LMHeadModel`` as word + pos, causal pre-norm encoder, and lm."""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    expand,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    their_activation,
    transformer_of,
)
from orchestrator.modeling.targets.token_configs import LmConfig

_LAYER = "transformer.h.{layer}"
_OURS = "encoder.layers.{layer}"
_QKV = tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value"))

TABLE = (
    weight("transformer.wte", "embedding.word"),
    weight("transformer.wpe", "embedding.pos"),
    *linear(f"{_LAYER}.ln_1", f"{_OURS}.norm1"),
    *linear(f"{_LAYER}.attn.c_attn", *_QKV, transposed=True),
    *linear(f"{_LAYER}.attn.c_proj", f"{_OURS}.attention.output", transposed=True),
    *linear(f"{_LAYER}.ln_2", f"{_OURS}.norm2"),
    *linear(f"{_LAYER}.mlp.c_fc", f"{_OURS}.feed_forward.up", transposed=True),
    *linear(f"{_LAYER}.mlp.c_proj", f"{_OURS}.feed_forward.down", transposed=True),
    *linear("transformer.ln_f", "encoder.norm"),
)
REPEATED = (
    Repeat("lm_head.weight", of="transformer.wte.weight"),
    Repeat("transformer.h.*.attn.bias"),
    Repeat("transformer.h.*.attn.masked_bias"),
)


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``GPT2Config``."""
    theirs.require(
        tie_word_embeddings=True,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    width = theirs.integer("n_embd")
    return ModelConfig(
        hidden_size=width,
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("n_positions"),
        initializer_range=theirs.number("initializer_range"),
        initialization="gpt2",
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), PosConfig()), layernorm=False, dropout=theirs.number("embd_pdrop")
        ),
        encoder=TransformerConfig(
            num_layers=theirs.integer("n_layer"),
            num_heads=theirs.integer("n_head"),
            intermediate_size=theirs.optional_integer("n_inner") or 4 * width,
            norm_position="pre",
            norm_eps=theirs.number("layer_norm_epsilon"),
            activation=theirs.activation("activation_function"),
            mask="causal",
            dropout=theirs.number("resid_pdrop"),
            attention_dropout=theirs.number("attn_pdrop"),
        ),
        target=(LmConfig(tie=True),),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``GPT2Config``."""
    encoder = transformer_of(config)
    return {
        "n_embd": config.hidden_size,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "embd_pdrop": config.embedding.dropout,
        "n_layer": encoder.num_layers,
        "n_head": encoder.num_heads,
        "n_inner": encoder.size_of_feed_forward(config.dimensions),
        "layer_norm_epsilon": encoder.norm_eps,
        "activation_function": their_activation(encoder.activation),
        "resid_pdrop": encoder.dropout,
        "attn_pdrop": encoder.attention_dropout,
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``GPT2LMHeadModel``."""
    return expand(TABLE, transformer_of(config).num_layers)


_LM = Architecture("GPT2LMHeadModel", "gpt2", model_config, their_config, table, REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, front="transformer", tags="classifier"))
