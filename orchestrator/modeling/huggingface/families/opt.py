"""OPT: transformers' ``OPTForCausalLM`` as word + pos, causal encoder, and lm.

Zhang et al. 2022. GPT-3's form with ReLU, and positions that count real tokens from row 2 of their
table. The model with 350 million parameters normalizes after each sub-layer; its words are narrower
than the model, which has no counterpart here.
"""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    LAYER,
    Architecture,
    Repeat,
    Row,
    expand,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.families.llama import is_tied
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    their_activation,
    transformer_of,
)
from orchestrator.modeling.targets.token_configs import LmConfig

_THEIRS, _OURS = "model.decoder", f"encoder.layers.{LAYER}"
_LAYER = f"{_THEIRS}.layers.{LAYER}"
OFFSET = 2
"""Rows of their position table before position 0."""
NORM_EPS = 1e-5
"""Their norms have torch's default, which their config does not name."""
PROJECTIONS = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "fc1": "feed_forward.up",
    "fc2": "feed_forward.down",
}
"""Their linear layers → ours."""
REPEATED = (
    Repeat("lm_head.weight", of="model.decoder.embed_tokens.weight"),
    Repeat("model.decoder.version"),
)


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for an ``OPTConfig``."""
    width = theirs.integer("hidden_size")
    theirs.require(word_embed_proj_dim=width, layer_norm_elementwise_affine=True, layerdrop=0.0)
    before = theirs.flag("do_layer_norm_before")
    removed = theirs.flag("_remove_final_layer_norm", False)
    encoder = TransformerConfig(
        num_layers=theirs.integer("num_hidden_layers"),
        num_heads=theirs.integer("num_attention_heads"),
        intermediate_size=theirs.integer("ffn_dim"),
        norm_position="pre" if before else "post",
        norm_eps=NORM_EPS,
        final_norm=not (before and removed),
        activation=theirs.activation("activation_function"),
        bias=theirs.flag("enable_bias"),
        mask="causal",
        dropout=theirs.number("dropout"),
        attention_dropout=theirs.number("attention_dropout"),
    )
    positions = PosConfig(offset=OFFSET, pad_aware=True)
    return ModelConfig(
        hidden_size=width,
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        pad_token_id=theirs.integer("pad_token_id", 0),
        initializer_range=theirs.number("init_std"),
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), positions), layernorm=False, dropout=0.0
        ),
        encoder=encoder,
        target=(LmConfig(tie=theirs.flag("tie_word_embeddings")),),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of an ``OPTConfig``."""
    encoder = transformer_of(config)
    return {
        "hidden_size": config.hidden_size,
        "word_embed_proj_dim": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
        "init_std": config.initializer_range,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "ffn_dim": encoder.size_of_feed_forward(config.dimensions),
        "do_layer_norm_before": encoder.norm_position == "pre",
        "_remove_final_layer_norm": not encoder.final_norm,
        "activation_function": their_activation(encoder.activation),
        "enable_bias": encoder.bias,
        "dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
        "tie_word_embeddings": is_tied(config),
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``OPTForCausalLM``."""
    encoder = transformer_of(config)
    rows = [
        weight(f"{_THEIRS}.embed_tokens", "embedding.word"),
        weight(f"{_THEIRS}.embed_positions", "embedding.pos"),
        *linear(f"{_LAYER}.self_attn_layer_norm", f"{_OURS}.norm1"),
        *linear(f"{_LAYER}.final_layer_norm", f"{_OURS}.norm2"),
    ]
    for theirs, ours in PROJECTIONS.items():
        both = linear(f"{_LAYER}.{theirs}", f"{_OURS}.{ours}")
        rows += both if encoder.bias else both[:1]
    if encoder.norm_position == "pre" and encoder.final_norm:
        rows += linear(f"{_THEIRS}.final_layer_norm", "encoder.norm")
    if not is_tied(config):
        rows.append(weight("lm_head", "targets.lm.output"))
    return expand(rows, encoder.num_layers)


_LM = Architecture("OPTForCausalLM", "opt", model_config, their_config, table, REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, without=("ForTokenClassification",)))
