"""DistilBERT: BERT without segments and pooler; the hidden layer of its classifier has ReLU.

Sanh et al. 2019. transformers does not drop out the output of attention; here a block has one rate
for both sub-layers. Outputs are the same, training differs by that one dropout.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    span_of,
    their_activation,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SpanConfig
from orchestrator.modeling.targets.configs import SequenceHeadConfig, TargetConfig
from orchestrator.modeling.targets.token_configs import MlmConfig, TagsConfig

EPS = 1e-12
"""Fixed in their code."""

_OURS = "encoder.layers.{layer}"


def body(prefix: str) -> list[Row]:
    """Return embedding and encoder, whose names start with ``prefix`` (``distilbert.``)."""
    embeddings, layer = f"{prefix}embeddings", f"{prefix}transformer.layer.{{layer}}"
    return [
        weight(f"{embeddings}.word_embeddings", "embedding.word"),
        weight(f"{embeddings}.position_embeddings", "embedding.pos"),
        *linear(f"{embeddings}.LayerNorm", "embedding.norm"),
        *linear(f"{layer}.attention.q_lin", f"{_OURS}.attention.query"),
        *linear(f"{layer}.attention.k_lin", f"{_OURS}.attention.key"),
        *linear(f"{layer}.attention.v_lin", f"{_OURS}.attention.value"),
        *linear(f"{layer}.attention.out_lin", f"{_OURS}.attention.output"),
        *linear(f"{layer}.sa_layer_norm", f"{_OURS}.norm1"),
        *linear(f"{layer}.ffn.lin1", f"{_OURS}.feed_forward.up"),
        *linear(f"{layer}.ffn.lin2", f"{_OURS}.feed_forward.down"),
        *linear(f"{layer}.output_layer_norm", f"{_OURS}.norm2"),
    ]


MLM: Table = (
    *linear("vocab_transform", "targets.mlm.transform_layer.dense"),
    *linear("vocab_layer_norm", "targets.mlm.transform_layer.norm"),
    same("vocab_projector.bias", "targets.mlm.output.bias"),
)
REPEATED = (Repeat("vocab_projector.weight", of="distilbert.embeddings.word_embeddings.weight"),)


def model_config(heads: Sequence[bert.Head], theirs: Values) -> ModelConfig:
    """Return our model config for a ``DistilBertConfig``."""
    theirs.require(sinusoidal_pos_embds=False)
    dropout = theirs.number("dropout")
    return ModelConfig(
        hidden_size=theirs.integer("dim"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), PosConfig()), norm_eps=EPS, dropout=dropout
        ),
        encoder=TransformerConfig(
            num_layers=theirs.integer("n_layers"),
            num_heads=theirs.integer("n_heads"),
            intermediate_size=theirs.integer("hidden_dim"),
            norm_eps=EPS,
            activation=theirs.activation("activation"),
            dropout=dropout,
            attention_dropout=theirs.number("attention_dropout"),
        ),
        target=bert.targets_of(heads, theirs),
    )


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the masked language modeling head."""
    theirs.require(tie_word_embeddings=True)
    return MlmConfig(activation=theirs.activation("activation"), norm_eps=EPS)


def cls_config(theirs: Values) -> TargetConfig:
    """Return the classification head: first vector, linear, ReLU, dropout, linear."""
    return answers_of(theirs, theirs.number("seq_classif_dropout"), "relu")


def tags_config(theirs: Values) -> TagsConfig:
    """Return the token classification head."""
    return TagsConfig(num_labels=len(theirs.labels()), dropout=theirs.number("dropout"))


def span_config(theirs: Values) -> SpanConfig:
    """Return the head that finds an answer."""
    return span_of(theirs, theirs.number("qa_dropout"))


def choice_config(theirs: Values) -> ChoiceConfig:
    """Return the head that chooses: first vector, linear, ReLU, dropout, one output."""
    return ChoiceConfig(dropout=theirs.number("seq_classif_dropout"), hidden_activation="relu")


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``DistilBertConfig``."""
    encoder = transformer_of(config)
    values: JsonObject = {
        "dim": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
        "initializer_range": config.initializer_range,
        "n_layers": encoder.num_layers,
        "n_heads": encoder.num_heads,
        "hidden_dim": encoder.size_of_feed_forward(config.dimensions),
        "activation": their_activation(encoder.activation),
        "dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
    }
    for target in config.target:
        if hasattr(target, "num_labels"):
            values |= their_answers(target)
        if isinstance(target, SpanConfig):
            values["qa_dropout"] = target.dropout
        elif isinstance(target, SequenceHeadConfig | ChoiceConfig):
            values["seq_classif_dropout"] = target.dropout
    return values


def table(head: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and head."""
    return expand((*body("distilbert."), *head), transformer_of(config).num_layers)


def headless_table(config: ModelConfig) -> list[Row]:
    """Return the rows of the body without a class name in front."""
    return expand(body(""), transformer_of(config).num_layers)


def cls_table(config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head."""
    return table(bert.answers_rows("pre_classifier", "classifier", config), config)


def _architecture(
    name: str, heads: Sequence[bert.Head], rows: Callable[[ModelConfig], Table]
) -> Architecture:
    return Architecture(
        name, "distilbert", partial(model_config, heads), their_config, rows, REPEATED
    )


ARCHITECTURES = (
    _architecture("DistilBertForMaskedLM", [mlm_config], partial(table, MLM)),
    _architecture("DistilBertForSequenceClassification", [cls_config], cls_table),
    _architecture("DistilBertForTokenClassification", [tags_config], partial(table, bert.TAGS)),
    _architecture("DistilBertForQuestionAnswering", [span_config], partial(table, bert.SPAN)),
    _architecture(
        "DistilBertForMultipleChoice",
        [choice_config],
        partial(table, bert.choice_rows("pre_classifier", "classifier")),
    ),
    replace(_architecture("DistilBertModel", [], headless_table), front="distilbert"),
)
