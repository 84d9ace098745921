"""BERT: transformers' ``Bert*`` classes as word + pos + seg, post-norm encoder, and heads.

Rows and values serve its relatives too (RoBERTa, ELECTRA, ALBERT).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same, weight
from orchestrator.modeling.huggingface.values import (
    activation_of,
    answers_of,
    require,
    their_activation,
    their_answers,
    transformer_of,
)

Head = Callable[[Values], dict[str, Any]]
"""Their config → the options of one target."""

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
VECTOR: Table = linear("pooler.dense", "targets.vector.dense")
REPEATED = (
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "*embeddings.position_ids",
)


def body_config(theirs: Values) -> dict[str, Any]:
    """Return embedding and encoder for a ``BertConfig``."""
    require(theirs, is_decoder=False, position_embedding_type="absolute")
    eps, dropout = theirs["layer_norm_eps"], theirs["hidden_dropout_prob"]
    return {
        "hidden_size": theirs["hidden_size"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["max_position_embeddings"],
        "type_vocab_size": theirs["type_vocab_size"],
        "pad_token_id": theirs["pad_token_id"],
        "initializer_range": theirs["initializer_range"],
        "embedding": {"parts": ["word", "pos", "seg"], "norm_eps": eps, "dropout": dropout},
        "encoder": {
            "type": "transformer",
            "num_layers": theirs["num_hidden_layers"],
            "num_heads": theirs["num_attention_heads"],
            "intermediate_size": theirs["intermediate_size"],
            "norm_eps": eps,
            "activation": activation_of(theirs, "hidden_act"),
            "dropout": dropout,
            "attention_dropout": theirs["attention_probs_dropout_prob"],
        },
    }


def mlm_config(theirs: Values) -> dict[str, Any]:
    """Return the masked language modelling head."""
    activation, eps = activation_of(theirs, "hidden_act"), theirs["layer_norm_eps"]
    require(theirs, tie_word_embeddings=True)
    return {"type": "mlm", "activation": activation, "norm_eps": eps}


def dropout_of(theirs: Values) -> float:
    """Return the dropout rate before a classifier."""
    dropout = theirs.get("classifier_dropout")
    rate: float = theirs["hidden_dropout_prob"] if dropout is None else dropout
    return rate


def cls_config(theirs: Values) -> dict[str, Any]:
    """Return the classification head: first vector, linear, tanh, dropout, linear."""
    shape = {"pooling": "first", "hidden": True, "dropout": dropout_of(theirs)}
    return answers_of(theirs) | shape


def tags_config(theirs: Values) -> dict[str, Any]:
    """Return the token classification head."""
    labels = {"type": "tags", "num_labels": len(theirs["id2label"])}
    return labels | {"dropout": dropout_of(theirs)}


def vector_config(theirs: Values) -> dict[str, Any]:
    """Return the pooler of a model without a head."""
    del theirs
    return {"type": "vector", "pooling": "first", "hidden": True}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``BertConfig``."""
    encoder = transformer_of(config)
    values: dict[str, Any] = {
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
    for target in config.target:
        if hasattr(target, "num_labels"):
            values |= their_answers(target) | {"classifier_dropout": getattr(target, "dropout", 0)}
    return values


def model_config(heads: Sequence[Head], theirs: Values) -> dict[str, Any]:
    """Return the whole model config."""
    return body_config(theirs) | {"target": [head(theirs) for head in heads]}


def table(prefix: str, heads: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and heads."""
    return expand((*body(prefix), *heads), transformer_of(config).num_layers)


def cls_table(prefix: str, dense: str, output: str, config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head, whatever kind of answers it gives."""
    name = config.target[0].name if config.target else "cls"
    return table(prefix, hidden_and_output(dense, output, name), config)


def _nsp(theirs: Values) -> dict[str, Any]:
    del theirs
    return {"type": "nsp"}


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
    _architecture("BertModel", [vector_config], partial(table, "", VECTOR)),
)
