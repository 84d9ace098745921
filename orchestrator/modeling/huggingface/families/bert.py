"""BERT: transformers' ``Bert*`` classes as word + pos + seg, post-norm encoder, and heads.

Rows and values serve its relatives too (RoBERTa, ELECTRA, ALBERT).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig, SegConfig, WordConfig
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
from orchestrator.modeling.huggingface.values import (
    POOLER_STORED,
    JsonObject,
    Values,
    answers_of,
    span_of,
    their_activation,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.targets.answer_configs import ChoiceConfig
from orchestrator.modeling.targets.configs import NspConfig, TargetConfig, VectorConfig
from orchestrator.modeling.targets.token_configs import MlmConfig, TagsConfig

Head = Callable[[Values], TargetConfig | None]
"""Their config → the options of one target; None: the file does not hold it."""

_OURS = "encoder.layers.{layer}"


def body(prefix: str) -> list[Row]:
    """Return embedding and encoder, whose names start with ``prefix`` (``bert.``)."""
    embeddings, layer = f"{prefix}embeddings", f"{prefix}encoder.layer.{{layer}}"
    return [
        weight(f"{embeddings}.word_embeddings", "embedding.word"),
        weight(f"{embeddings}.position_embeddings", "embedding.pos"),
        weight(f"{embeddings}.token_type_embeddings", "embedding.seg"),
        *linear(f"{embeddings}.LayerNorm", "embedding.norm"),
        *linear(f"{layer}.attention.self.query", f"{_OURS}.attention.query"),
        *linear(f"{layer}.attention.self.key", f"{_OURS}.attention.key"),
        *linear(f"{layer}.attention.self.value", f"{_OURS}.attention.value"),
        *linear(f"{layer}.attention.output.dense", f"{_OURS}.attention.output"),
        *linear(f"{layer}.attention.output.LayerNorm", f"{_OURS}.norm1"),
        *linear(f"{layer}.intermediate.dense", f"{_OURS}.feed_forward.up"),
        *linear(f"{layer}.output.dense", f"{_OURS}.feed_forward.down"),
        *linear(f"{layer}.output.LayerNorm", f"{_OURS}.norm2"),
    ]


def hidden_and_output(dense: str, output: str, target: str) -> Table:
    """Return the two layers of a head that reads one vector per sequence."""
    return (
        *linear(dense, f"targets.{target}.dense"),
        *linear(output, f"targets.{target}.output"),
    )


MLM: Table = (
    *linear("cls.predictions.transform.dense", "targets.mlm.transform_layer.dense"),
    *linear("cls.predictions.transform.LayerNorm", "targets.mlm.transform_layer.norm"),
    same("cls.predictions.bias", "targets.mlm.output.bias"),
)
NSP = hidden_and_output("bert.pooler.dense", "cls.seq_relationship", "nsp")
TAGS: Table = linear("classifier", "targets.tags.output")
SPAN: Table = linear("qa_outputs", "targets.span.output")
VECTOR: Table = linear("pooler.dense", "targets.vector.dense")
REPEATED = (
    Repeat("cls.predictions.decoder.weight", of="bert.embeddings.word_embeddings.weight"),
    Repeat("cls.predictions.decoder.bias", of="cls.predictions.bias"),
    Repeat("*embeddings.position_ids"),
)


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the masked language modeling head."""
    theirs.require(tie_word_embeddings=True)
    eps = theirs.number("layer_norm_eps")
    return MlmConfig(activation=theirs.activation("hidden_act"), norm_eps=eps)


def dropout_of(theirs: Values) -> float:
    """Return the dropout rate before a classifier."""
    return theirs.number("classifier_dropout", theirs.number("hidden_dropout_prob"))


def cls_config(theirs: Values) -> TargetConfig:
    """Return the classification head: first vector, linear, tanh, dropout, linear."""
    return answers_of(theirs, dropout_of(theirs))


def tags_config(theirs: Values) -> TagsConfig:
    """Return the token classification head."""
    return TagsConfig(num_labels=len(theirs.labels()), dropout=dropout_of(theirs))


def choice_config(theirs: Values) -> ChoiceConfig:
    """Return the head that chooses: pooler, dropout, one output."""
    return ChoiceConfig(dropout=dropout_of(theirs))


def vector_config(theirs: Values) -> VectorConfig | None:
    """Return the pooler of a model without a head, if the file holds one."""
    stored = theirs.flag(POOLER_STORED, True)
    return VectorConfig(pooling="first", hidden=True) if stored else None


def no_arguments(config: ModelConfig) -> dict[str, bool]:
    """Return no arguments."""
    del config
    return {}


def without_pooler(config: ModelConfig) -> dict[str, bool]:
    """Return the argument of a body's constructor that leaves out the pooler, where it has none."""
    return {} if config.target else {"add_pooling_layer": False}


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``BertConfig``."""
    encoder = transformer_of(config)
    values: JsonObject = {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "pad_token_id": config.pad_token_id,
        "initializer_range": config.initializer_range,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "hidden_act": their_activation(encoder.activation),
        "layer_norm_eps": encoder.norm_eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
    }
    if not config.target:
        values[POOLER_STORED] = False
    for target in config.target:
        if hasattr(target, "num_labels"):
            values |= their_answers(target)
        if hasattr(target, "num_labels") or target.type_name() == "choice":
            values["classifier_dropout"] = getattr(target, "dropout", 0)
    return values


def model_config(
    heads: Sequence[Head],
    theirs: Values,
    *,
    positions: PosConfig | None = None,
    max_positions: int | None = None,
    size: int | None = None,
    shared_layers: bool = False,
) -> ModelConfig:
    """Return our model config for a ``BertConfig`` or that of a relative.

    Args:
        heads: What makes the targets.
        theirs: Their config.
        positions: The position part, where it is not the plain one.
        max_positions: Longest sequence, where their table has other rows as well.
        size: Width of the embedding, where it is narrower than the model.
        shared_layers: Whether one block is applied several times.
    """
    theirs.require(is_decoder=False, position_embedding_type="absolute")
    eps, dropout = theirs.number("layer_norm_eps"), theirs.number("hidden_dropout_prob")
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=max_positions or theirs.integer("max_position_embeddings"),
        type_vocab_size=theirs.integer("type_vocab_size"),
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), positions or PosConfig(), SegConfig()),
            norm_eps=eps,
            dropout=dropout,
            size=size,
        ),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=theirs.integer("num_attention_heads"),
            intermediate_size=theirs.integer("intermediate_size"),
            norm_eps=eps,
            activation=theirs.activation("hidden_act"),
            dropout=dropout,
            attention_dropout=theirs.number("attention_probs_dropout_prob"),
            shared_layers=shared_layers,
        ),
        target=targets_of(heads, theirs),
    )


def targets_of(heads: Sequence[Head], theirs: Values) -> tuple[TargetConfig, ...]:
    """Return the targets that the file holds."""
    found = (head(theirs) for head in heads)
    return tuple(target for target in found if target is not None)


def table(prefix: str, heads: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and heads."""
    return expand((*body(prefix), *heads), transformer_of(config).num_layers)


def answers_rows(dense: str, output: str, config: ModelConfig) -> Table:
    """Return the rows of a classification head, whatever kind of answers it gives."""
    name = config.target[0].name if config.target else "cls"
    return hidden_and_output(dense, output, name)


def choice_rows(dense: str, output: str) -> Table:
    """Return the rows of the head that chooses."""
    return hidden_and_output(dense, output, "choice")


def body_table(config: ModelConfig) -> list[Row]:
    """Return the rows of the body alone, with its pooler if there is one."""
    return table("", VECTOR if config.target else (), config)


def cls_table(prefix: str, dense: str, output: str, config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head."""
    return table(prefix, answers_rows(dense, output, config), config)


def _nsp(theirs: Values) -> NspConfig:
    del theirs
    return NspConfig()


def _architecture(
    name: str, heads: Sequence[Head], rows: Callable[[ModelConfig], Table]
) -> Architecture:
    return Architecture(name, "bert", partial(model_config, heads), their_config, rows, REPEATED)


ARCHITECTURES = (
    _architecture("BertForPreTraining", [mlm_config, _nsp], partial(table, "bert.", (*MLM, *NSP))),
    _architecture("BertForMaskedLM", [mlm_config], partial(table, "bert.", MLM)),
    _architecture(
        "BertForSequenceClassification",
        [cls_config],
        partial(cls_table, "bert.", "bert.pooler.dense", "classifier"),
    ),
    _architecture("BertForTokenClassification", [tags_config], partial(table, "bert.", TAGS)),
    _architecture("BertForQuestionAnswering", [span_of], partial(table, "bert.", SPAN)),
    _architecture(
        "BertForMultipleChoice",
        [choice_config],
        partial(table, "bert.", choice_rows("bert.pooler.dense", "classifier")),
    ),
    replace(
        _architecture("BertModel", [vector_config], body_table),
        arguments=without_pooler,
        front="bert",
    ),
)
