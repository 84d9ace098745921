"""GPT-NeoX and Pythia: transformers' ``GPTNeoXForCausalLM`` as word, causal encoder, and lm.

Black et al. 2022, sections 2.1 and 2.2: attention and feed-forward read the same input and their
outputs are added together (``parallel``); a quarter of each head is rotated. Query, key and value
are one tensor that holds them head by head.
"""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import WordConfig
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
from orchestrator.modeling.huggingface.families.llama import is_tied, rotary_config, their_rotary
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    their_activation,
    transformer_of,
)
from orchestrator.modeling.targets.token_configs import LmConfig

_LAYER, _OURS = f"gpt_neox.layers.{LAYER}", f"encoder.layers.{LAYER}"
_QKV = tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value"))
REPEATED = (
    Repeat("embed_out.weight", of="gpt_neox.embed_in.weight"),
    Repeat("gpt_neox.layers.*.attention.bias"),
    Repeat("gpt_neox.layers.*.attention.masked_bias"),
    Repeat("gpt_neox.layers.*.attention.rotary_emb.inv_freq"),
)


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``GPTNeoXConfig``."""
    dropout, eps = theirs.number("hidden_dropout"), theirs.number("layer_norm_eps")
    encoder = TransformerConfig(
        num_layers=theirs.integer("num_hidden_layers"),
        num_heads=theirs.integer("num_attention_heads"),
        intermediate_size=theirs.integer("intermediate_size"),
        norm_position="pre",
        norm_eps=eps,
        parallel=theirs.flag("use_parallel_residual"),
        activation=theirs.activation("hidden_act"),
        attention_bias=None if theirs.flag("attention_bias") else (),
        mask="causal",
        rotary=rotary_config(theirs.section("rope_parameters"), partial=True),
        dropout=dropout,
        attention_dropout=theirs.number("attention_dropout"),
    )
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(parts=(WordConfig(),), layernorm=False, dropout=dropout),
        encoder=encoder,
        target=(LmConfig(tie=theirs.flag("tie_word_embeddings")),),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``GPTNeoXConfig``."""
    encoder = transformer_of(config)
    return {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "layer_norm_eps": encoder.norm_eps,
        "use_parallel_residual": encoder.parallel,
        "hidden_act": their_activation(encoder.activation),
        "attention_bias": encoder.has_bias("query"),
        "rope_parameters": their_rotary(encoder.rotary, partial=True),
        "hidden_dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
        "tie_word_embeddings": is_tied(config),
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``GPTNeoXForCausalLM``."""
    encoder = transformer_of(config)
    fused = linear(f"{_LAYER}.attention.query_key_value", *_QKV, heads=encoder.num_heads)
    dense = linear(f"{_LAYER}.attention.dense", f"{_OURS}.attention.output")
    rows = [
        weight("gpt_neox.embed_in", "embedding.word"),
        *linear(f"{_LAYER}.input_layernorm", f"{_OURS}.norm1"),
        *linear(f"{_LAYER}.post_attention_layernorm", f"{_OURS}.norm2"),
        *linear(f"{_LAYER}.mlp.dense_h_to_4h", f"{_OURS}.feed_forward.up"),
        *linear(f"{_LAYER}.mlp.dense_4h_to_h", f"{_OURS}.feed_forward.down"),
        *linear("gpt_neox.final_layer_norm", "encoder.norm"),
    ]
    for both in (fused, dense):
        rows += both if encoder.has_bias("query") else both[:1]
    if not is_tied(config):
        rows.append(weight("embed_out", "targets.lm.output"))
    return expand(rows, encoder.num_layers)


_LM = Architecture("GPTNeoXForCausalLM", "gpt_neox", model_config, their_config, table, REPEATED)
ARCHITECTURES = (_LM, *heads_of(_LM, front="gpt_neox", tags="classifier"))
