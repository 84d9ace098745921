"""DistilBERT: BERT without segments and pooler; the hidden layer of its classifier has ReLU.

Sanh et al. 2019. transformers does not drop out the output of attention; here a block has one rate
for both sub-layers. Outputs are the same, training differs by that one dropout.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same, weight
from orchestrator.modeling.huggingface.values import (
    activation_of,
    answers_of,
    num_labels_of,
    require,
    their_activation,
    their_answers,
    transformer_of,
)

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
REPEATED = ("vocab_projector.weight",)


def model_config(heads: Sequence[bert.Head], theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``DistilBertConfig``."""
    require(theirs, sinusoidal_pos_embds=False)
    parts, dropout = ["word", "pos"], theirs["dropout"]
    return {
        "hidden_size": theirs["dim"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["max_position_embeddings"],
        "pad_token_id": theirs["pad_token_id"],
        "initializer_range": theirs["initializer_range"],
        "embedding": {"parts": parts, "norm_eps": EPS, "dropout": dropout},
        "encoder": {
            "type": "transformer",
            "num_layers": theirs["n_layers"],
            "num_heads": theirs["n_heads"],
            "intermediate_size": theirs["hidden_dim"],
            "norm_eps": EPS,
            "activation": activation_of(theirs, "activation"),
            "dropout": dropout,
            "attention_dropout": theirs["attention_dropout"],
        },
        "target": [head(theirs) for head in heads],
    }


def mlm_config(theirs: Values) -> dict[str, Any]:
    """Return the masked language modelling head."""
    require(theirs, tie_word_embeddings=True)
    return {"type": "mlm", "activation": activation_of(theirs, "activation"), "norm_eps": EPS}


def cls_config(theirs: Values) -> dict[str, Any]:
    """Return the classification head: first vector, linear, ReLU, dropout, linear."""
    shape = {"pooling": "first", "hidden": True, "hidden_activation": "relu"}
    return answers_of(theirs) | shape | {"dropout": theirs["seq_classif_dropout"]}


def tags_config(theirs: Values) -> dict[str, Any]:
    """Return the token classification head."""
    labels = {"type": "tags", "num_labels": num_labels_of(theirs)}
    return labels | {"dropout": theirs["dropout"]}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``DistilBertConfig``."""
    encoder = transformer_of(config)
    values: dict[str, Any] = {
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
            if target.type_name() != "tags":
                values["seq_classif_dropout"] = getattr(target, "dropout", 0.0)
    return values


def table(head: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and head."""
    return expand((*body("distilbert."), *head), transformer_of(config).num_layers)


def headless_table(config: ModelConfig) -> list[Row]:
    """Return the rows of the body without a class name in front."""
    return expand(body(""), transformer_of(config).num_layers)


def cls_table(config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head, whatever kind of answers it gives."""
    name = config.target[0].name if config.target else "cls"
    return table(bert.hidden_and_output("pre_classifier", "classifier", name), config)


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
    _architecture("DistilBertModel", [], headless_table),
)
