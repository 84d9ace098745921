"""BERT: transformers' ``Bert*`` classes as word + pos + seg, post-norm encoder, and heads."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same, weight
from orchestrator.modeling.huggingface.values import (
    activation_of,
    labels_of,
    num_labels_of,
    require,
    their_activation,
    transformer_of,
)

_OURS = "encoder.layers.{layer}"
_LAYER = "bert.encoder.layer.{layer}"

BODY: Table = (
    weight("bert.embeddings.word_embeddings", "embedding.word"),
    weight("bert.embeddings.position_embeddings", "embedding.pos"),
    weight("bert.embeddings.token_type_embeddings", "embedding.seg"),
    *linear("bert.embeddings.LayerNorm", "embedding.norm"),
    *linear(f"{_LAYER}.attention.self.query", f"{_OURS}.attention.query"),
    *linear(f"{_LAYER}.attention.self.key", f"{_OURS}.attention.key"),
    *linear(f"{_LAYER}.attention.self.value", f"{_OURS}.attention.value"),
    *linear(f"{_LAYER}.attention.output.dense", f"{_OURS}.attention.output"),
    *linear(f"{_LAYER}.attention.output.LayerNorm", f"{_OURS}.norm1"),
    *linear(f"{_LAYER}.intermediate.dense", f"{_OURS}.feed_forward.up"),
    *linear(f"{_LAYER}.output.dense", f"{_OURS}.feed_forward.down"),
    *linear(f"{_LAYER}.output.LayerNorm", f"{_OURS}.norm2"),
)
MLM: Table = (
    *linear("cls.predictions.transform.dense", "targets.mlm.transform_layer.dense"),
    *linear("cls.predictions.transform.LayerNorm", "targets.mlm.transform_layer.norm"),
    same("cls.predictions.bias", "targets.mlm.output.bias"),
)
SP: Table = (
    *linear("bert.pooler.dense", "targets.sp.dense"),
    *linear("cls.seq_relationship", "targets.sp.output"),
)
CLS: Table = (
    *linear("bert.pooler.dense", "targets.cls.dense"),
    *linear("classifier", "targets.cls.output"),
)
REPEATED = (
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "bert.embeddings.position_ids",
)


def body_config(theirs: Values) -> dict[str, Any]:
    """Return embedding and encoder for a ``BertConfig``."""
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


def cls_config(theirs: Values) -> dict[str, Any]:
    """Return the classification head: pooler, dropout, linear layer."""
    dropout = theirs.get("classifier_dropout")
    return {
        "type": "cls",
        "num_labels": num_labels_of(theirs),
        "pooling": "first",
        "hidden": True,
        "dropout": theirs["hidden_dropout_prob"] if dropout is None else dropout,
    }


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
        if target.type_name() == "cls":
            values |= labels_of(target) | {"classifier_dropout": getattr(target, "dropout", None)}
    return values


def model_config(heads: Sequence[Callable[[Values], Any]], theirs: Values) -> dict[str, Any]:
    """Return the whole model config."""
    return body_config(theirs) | {"target": [head(theirs) for head in heads]}


def table(heads: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and heads."""
    return expand((*BODY, *heads), transformer_of(config).num_layers)


def _sp(theirs: Values) -> dict[str, Any]:
    del theirs
    return {"type": "sp"}


def _architecture(name: str, heads: Sequence[Callable[[Values], Any]], rows: Table) -> Architecture:
    return Architecture(
        name,
        "bert",
        partial(model_config, heads),
        their_config,
        partial(table, rows),
        REPEATED,
    )


ARCHITECTURES = (
    _architecture("BertForPreTraining", [mlm_config, _sp], (*MLM, *SP)),
    _architecture("BertForMaskedLM", [mlm_config], MLM),
    _architecture("BertForSequenceClassification", [cls_config], CLS),
)
