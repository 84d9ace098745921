"""Nomic BERT and GTE: BERT with rotary positions and a gated feed-forward, post-norm.

Nomic BERT (Nussbaum et al. 2024) has no biases in its blocks; GTE (Zhang et al. 2024, mGTE) has
them in attention and in the layer that leaves the feed-forward. Their classes write the names of
the code that came before them, in which query, key and value are one tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import SegConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.families import bert, llama
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.block_options import Activation, FeedForwardLayer
from orchestrator.modeling.targets.token_configs import MlmConfig

_OURS = "encoder.layers.{layer}"
_QKV = tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value"))
_UP_GATE = (f"{_OURS}.feed_forward.up", f"{_OURS}.feed_forward.gate")


@dataclass(frozen=True, slots=True)
class Family:
    """One of the two families, as far as they differ.

    Attributes:
        layers: The rows of embedding and blocks, without a prefix.
        name: First part of the names of the classes.
        model_type: Their ``model_type``, also the name of the body in files.
        attention_bias: Whether the layers of attention have biases.
        feed_forward_bias: Layers of the feed-forward with a bias.
        drops_inside: Whether dropout acts inside the feed-forward.
        mlm: The rows of the masked language modeling head.
        mlm_activation: Its activation where the config does not say it.
        repeated: Names under which files store a tensor once more.
    """

    layers: Table
    name: str
    model_type: str
    attention_bias: bool
    feed_forward_bias: tuple[FeedForwardLayer, ...]
    drops_inside: bool
    mlm: Table
    mlm_activation: Activation | None
    repeated: tuple[Repeat, ...]


NOMIC = Family(
    layers=(
        *linear("emb_ln", "embedding.norm"),
        weight("encoder.layers.{layer}.attn.Wqkv", *_QKV),
        weight("encoder.layers.{layer}.attn.out_proj", f"{_OURS}.attention.output"),
        *linear("encoder.layers.{layer}.norm1", f"{_OURS}.norm1"),
        weight("encoder.layers.{layer}.mlp.fc11", f"{_OURS}.feed_forward.up"),
        weight("encoder.layers.{layer}.mlp.fc12", f"{_OURS}.feed_forward.gate"),
        weight("encoder.layers.{layer}.mlp.fc2", f"{_OURS}.feed_forward.down"),
        *linear("encoder.layers.{layer}.norm2", f"{_OURS}.norm2"),
    ),
    name="NomicBert",
    model_type="nomic_bert",
    attention_bias=False,
    feed_forward_bias=(),
    drops_inside=False,
    mlm=(
        *linear("cls.predictions.transform.dense", "targets.mlm.transform_layer.dense"),
        *linear("cls.predictions.transform.layer_norm", "targets.mlm.transform_layer.norm"),
        same("cls.predictions.bias", "targets.mlm.output.bias"),
    ),
    mlm_activation=None,
    repeated=(
        Repeat("cls.predictions.decoder.weight", of="nomic_bert.embeddings.word_embeddings.weight"),
        Repeat("cls.predictions.decoder.bias", of="cls.predictions.bias"),
    ),
)
GTE = Family(
    layers=(
        *linear("embeddings.LayerNorm", "embedding.norm"),
        *linear("encoder.layer.{layer}.attention.qkv_proj", *_QKV),
        *linear("encoder.layer.{layer}.attention.o_proj", f"{_OURS}.attention.output"),
        *linear("encoder.layer.{layer}.attn_ln", f"{_OURS}.norm1"),
        weight("encoder.layer.{layer}.mlp.up_gate_proj", *_UP_GATE),
        *linear("encoder.layer.{layer}.mlp.down_proj", f"{_OURS}.feed_forward.down"),
        *linear("encoder.layer.{layer}.mlp_ln", f"{_OURS}.norm2"),
    ),
    name="Gte",
    model_type="gte",
    attention_bias=True,
    feed_forward_bias=("down",),
    drops_inside=True,
    mlm=(
        *linear("lm_head.dense", "targets.mlm.transform_layer.dense"),
        *linear("lm_head.norm", "targets.mlm.transform_layer.norm"),
        same("lm_head.decoder.bias", "targets.mlm.output.bias"),
    ),
    mlm_activation="gelu",
    repeated=(Repeat("lm_head.decoder.weight", of="gte.embeddings.word_embeddings.weight"),),
)


def model_config(family: Family, heads: Sequence[bert.Head], theirs: Values) -> ModelConfig:
    """Return our model config for a ``NomicBertConfig`` or ``GteConfig``."""
    eps, dropout = theirs.number("layer_norm_eps"), theirs.number("hidden_dropout_prob")
    kinds = theirs.integer("type_vocab_size")
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        type_vocab_size=kinds or 1,
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), SegConfig()) if kinds else (WordConfig(),),
            norm_eps=eps,
            dropout=dropout,
        ),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=theirs.integer("num_attention_heads"),
            head_size=theirs.optional_integer("head_dim"),
            intermediate_size=theirs.integer("intermediate_size"),
            norm_eps=eps,
            activation=theirs.activation("hidden_act"),
            feed_forward="gated",
            attention="unpadded",
            bias=family.attention_bias,
            feed_forward_bias=family.feed_forward_bias,
            rotary=llama.rotary_config(theirs.section("rope_parameters")),
            dropout=dropout,
            activation_dropout=dropout if family.drops_inside else 0.0,
            attention_dropout=theirs.number("attention_probs_dropout_prob"),
        ),
        target=bert.targets_of(heads, theirs),
    )


def mlm_config(family: Family, theirs: Values) -> MlmConfig:
    """Return the masked language modeling head."""
    theirs.require(tie_word_embeddings=True)
    return MlmConfig(
        activation=family.mlm_activation or theirs.activation("hidden_act"),
        norm_eps=theirs.number("layer_norm_eps"),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``NomicBertConfig`` or ``GteConfig``."""
    encoder = transformer_of(config)
    values = bert.their_config(config)
    values["head_dim"] = encoder.size_of_head(config.dimensions)
    values["rope_parameters"] = llama.their_rotary(encoder.rotary)
    if config.embedding.part("seg") is None:
        values["type_vocab_size"] = 0
    return values


def table(family: Family, prefix: str, heads: Table, config: ModelConfig) -> Table:
    """Return the rows of a body whose names start with ``prefix``, and of heads."""
    rows = [weight("embeddings.word_embeddings", "embedding.word"), *family.layers]
    if config.embedding.part("seg") is not None:
        rows.append(weight("embeddings.token_type_embeddings", "embedding.seg"))
    body = (replace(row, theirs=(f"{prefix}{row.theirs[0]}",)) for row in rows)
    return [*expand(body, transformer_of(config).num_layers), *heads]


def cls_table(family: Family, prefix: str, config: ModelConfig) -> Table:
    """Return the rows of body and classification head."""
    head = bert.answers_rows(f"{prefix}pooler.dense", "classifier", config)
    return table(family, prefix, head, config)


def _architectures(family: Family) -> Sequence[Architecture]:
    prefix = f"{family.model_type}."
    heads: dict[str, tuple[list[bert.Head], Callable[[ModelConfig], Table]]] = {
        "ForMaskedLM": ([partial(mlm_config, family)], partial(table, family, prefix, family.mlm)),
        "ForSequenceClassification": ([bert.cls_config], partial(cls_table, family, prefix)),
        "ForTokenClassification": ([bert.tags_config], partial(table, family, prefix, bert.TAGS)),
        "Model": ([], partial(table, family, "", ())),
    }
    return [
        Architecture(
            family.name + name,
            family.model_type,
            partial(model_config, family, made),
            their_config,
            rows,
            family.repeated,
            front=family.model_type if name == "Model" else "",
            splits=True,
        )
        for name, (made, rows) in heads.items()
    ]


ARCHITECTURES = (*_architectures(NOMIC), *_architectures(GTE))
