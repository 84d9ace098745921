"""ELECTRA: BERT with narrow embeddings; a discriminator with rtd, and a generator with mlm."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    linear,
    same,
)
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.values import JsonObject, Values, answers_of, span_of
from orchestrator.modeling.targets.answer_configs import ChoiceConfig
from orchestrator.modeling.targets.configs import HeadActivation, TargetConfig
from orchestrator.modeling.targets.token_configs import MlmConfig, RtdConfig

RTD: Table = (
    *linear("discriminator_predictions.dense", "targets.rtd.dense"),
    *linear("discriminator_predictions.dense_prediction", "targets.rtd.output"),
)
MLM: Table = (
    *linear("generator_predictions.dense", "targets.mlm.transform_layer.dense"),
    *linear("generator_predictions.LayerNorm", "targets.mlm.transform_layer.norm"),
    same("generator_lm_head.bias", "targets.mlm.output.bias"),
)
REPEATED = (
    Repeat("generator_lm_head.weight", of="electra.embeddings.word_embeddings.weight"),
    Repeat("*embeddings.position_ids"),
)


def model_config(heads: Sequence[bert.Head], theirs: Values) -> ModelConfig:
    """Return our model config for an ``ElectraConfig``."""
    size = theirs.integer("embedding_size")
    narrower = None if size == theirs.integer("hidden_size") else size
    return bert.model_config(heads, theirs, size=narrower)


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the generator's head, whose activation is always GELU."""
    theirs.require(tie_word_embeddings=True)
    return MlmConfig(activation="gelu", norm_eps=theirs.number("layer_norm_eps"))


def rtd_config(theirs: Values) -> RtdConfig:
    """Return the discriminator's head."""
    return RtdConfig(activation=theirs.activation("hidden_act"))


def cls_config(theirs: Values) -> TargetConfig:
    """Return the classification head: first vector, linear, GELU, dropout, linear."""
    return answers_of(theirs, bert.dropout_of(theirs), "gelu")


def choice_config(theirs: Values) -> ChoiceConfig:
    """Return the head that chooses: first vector, linear, activation, dropout, one output."""
    theirs.require(summary_type="first", summary_use_proj=True, summary_proj_to_labels=False)
    theirs.require(summary_first_dropout=0)
    return ChoiceConfig(
        hidden_activation=theirs.choice("summary_activation", SUMMARIES),
        dropout=theirs.number("summary_last_dropout"),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of an ``ElectraConfig``."""
    values = bert.their_config(config)
    values["embedding_size"] = config.embedding.size or config.hidden_size
    for target in config.target:
        if isinstance(target, ChoiceConfig):
            values["summary_activation"] = target.hidden_activation
            values["summary_last_dropout"] = target.dropout
    return values


def table(prefix: str, head: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and head."""
    project = linear(f"{prefix}embeddings_project", "embedding.projection")
    narrow = () if config.embedding.size is None else project
    return bert.table(prefix, (*narrow, *head), config)


def cls_table(config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head."""
    rows = bert.answers_rows("classifier.dense", "classifier.out_proj", config)
    return table("electra.", rows, config)


def _architecture(
    name: str, heads: Sequence[bert.Head], rows: Table, prefix: str = "electra."
) -> Architecture:
    own_table = partial(table, prefix, rows)
    return Architecture(
        name, "electra", partial(model_config, heads), their_config, own_table, REPEATED
    )


SUMMARIES: dict[str, HeadActivation] = {"gelu": "gelu", "relu": "relu", "tanh": "tanh"}
"""Their ``summary_activation`` → our activation after a hidden layer."""


ARCHITECTURES = (
    _architecture("ElectraForPreTraining", [rtd_config], RTD),
    _architecture("ElectraForMaskedLM", [mlm_config], MLM),
    _architecture("ElectraForTokenClassification", [bert.tags_config], bert.TAGS),
    _architecture("ElectraForQuestionAnswering", [span_of], bert.SPAN),
    replace(_architecture("ElectraForSequenceClassification", [cls_config], ()), table=cls_table),
    _architecture(
        "ElectraForMultipleChoice",
        [choice_config],
        bert.choice_rows("sequence_summary.summary", "classifier"),
    ),
    replace(_architecture("ElectraModel", [], (), prefix=""), front="electra"),
)
