"""ALBERT: BERT with narrow embeddings and one block applied several times; mlm and sop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.modeling.config import ModelConfig
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
from orchestrator.modeling.huggingface.values import JsonObject, Values, answers_of, span_of
from orchestrator.modeling.targets.answer_configs import ChoiceConfig
from orchestrator.modeling.targets.configs import SopConfig, TargetConfig
from orchestrator.modeling.targets.token_configs import TagsConfig

_OURS = "encoder.layers.0"


def body(prefix: str) -> list[Row]:
    """Return embedding and encoder, whose names start with ``prefix`` (``albert.``)."""
    embeddings = f"{prefix}embeddings"
    layer = f"{prefix}encoder.albert_layer_groups.0.albert_layers.0"
    return [
        weight(f"{embeddings}.word_embeddings", "embedding.word"),
        weight(f"{embeddings}.position_embeddings", "embedding.pos"),
        weight(f"{embeddings}.token_type_embeddings", "embedding.seg"),
        *linear(f"{embeddings}.LayerNorm", "embedding.norm"),
        *linear(f"{prefix}encoder.embedding_hidden_mapping_in", "embedding.projection"),
        *linear(f"{layer}.attention.query", f"{_OURS}.attention.query"),
        *linear(f"{layer}.attention.key", f"{_OURS}.attention.key"),
        *linear(f"{layer}.attention.value", f"{_OURS}.attention.value"),
        *linear(f"{layer}.attention.dense", f"{_OURS}.attention.output"),
        *linear(f"{layer}.attention.LayerNorm", f"{_OURS}.norm1"),
        *linear(f"{layer}.ffn", f"{_OURS}.feed_forward.up"),
        *linear(f"{layer}.ffn_output", f"{_OURS}.feed_forward.down"),
        *linear(f"{layer}.full_layer_layer_norm", f"{_OURS}.norm2"),
    ]


MLM: Table = (
    *linear("predictions.dense", "targets.mlm.transform_layer.dense"),
    *linear("predictions.LayerNorm", "targets.mlm.transform_layer.norm"),
    same("predictions.bias", "targets.mlm.output.bias"),
)
SOP = bert.hidden_and_output("albert.pooler", "sop_classifier.classifier", "sop")
REPEATED = (
    Repeat("predictions.decoder.weight", of="albert.embeddings.word_embeddings.weight"),
    Repeat("predictions.decoder.bias", of="predictions.bias"),
    Repeat("*embeddings.position_ids"),
)


def model_config(heads: Sequence[bert.Head], theirs: Values) -> ModelConfig:
    """Return our model config for an ``AlbertConfig``."""
    theirs.require(num_hidden_groups=1, inner_group_num=1)
    size = theirs.integer("embedding_size")
    return bert.model_config(heads, theirs, size=size, shared_layers=True)


def dropout_of(theirs: Values) -> float:
    """Return the dropout rate before a classifier."""
    return theirs.number("classifier_dropout_prob")


def sop_config(theirs: Values) -> SopConfig:
    """Return the sentence order head."""
    return SopConfig(dropout=dropout_of(theirs))


def cls_config(theirs: Values) -> TargetConfig:
    """Return the classification head: pooler, dropout, linear layer."""
    return answers_of(theirs, dropout_of(theirs))


def tags_config(theirs: Values) -> TagsConfig:
    """Return the token classification head."""
    return TagsConfig(num_labels=len(theirs.labels()), dropout=dropout_of(theirs))


def choice_config(theirs: Values) -> ChoiceConfig:
    """Return the head that chooses: pooler, dropout, one output."""
    return ChoiceConfig(dropout=dropout_of(theirs))


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of an ``AlbertConfig``."""
    values = bert.their_config(config) | {"embedding_size": config.embedding.size}
    values.pop("classifier_dropout", None)
    for target in config.target:
        if hasattr(target, "dropout") and target.type_name() != "span":
            values["classifier_dropout_prob"] = target.dropout
    return values


def table(heads: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and heads; the block has a single set of them."""
    del config
    return expand((*body("albert."), *heads), 1)


def headless_table(config: ModelConfig) -> list[Row]:
    """Return the rows of body and pooler without a class name in front."""
    pooler = linear("pooler", "targets.vector.dense") if config.target else ()
    return expand((*body(""), *pooler), 1)


def cls_table(config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head."""
    return table(bert.answers_rows("albert.pooler", "classifier", config), config)


def _architecture(
    name: str, heads: Sequence[bert.Head], rows: Callable[[ModelConfig], Table]
) -> Architecture:
    return Architecture(name, "albert", partial(model_config, heads), their_config, rows, REPEATED)


ARCHITECTURES = (
    _architecture(
        "AlbertForPreTraining", [bert.mlm_config, sop_config], partial(table, (*MLM, *SOP))
    ),
    _architecture("AlbertForMaskedLM", [bert.mlm_config], partial(table, MLM)),
    _architecture("AlbertForSequenceClassification", [cls_config], cls_table),
    _architecture("AlbertForTokenClassification", [tags_config], partial(table, bert.TAGS)),
    _architecture("AlbertForQuestionAnswering", [span_of], partial(table, bert.SPAN)),
    _architecture(
        "AlbertForMultipleChoice",
        [choice_config],
        partial(table, bert.choice_rows("albert.pooler", "classifier")),
    ),
    replace(
        _architecture("AlbertModel", [bert.vector_config], headless_table),
        arguments=bert.without_pooler,
        front="albert",
    ),
)
