"""BERT: transformers' ``BertForPreTraining`` as embedding + encoder + mlm + sp."""

from collections.abc import Mapping
from typing import Any

from orchestrator.modeling.huggingface.activations import ACTIVATIONS
from orchestrator.modeling.huggingface.keys import Row, linear

_THEIRS = "bert.encoder.layer.{layer}"
_OURS = "encoder.layers.{layer}"

TABLE: tuple[Row, ...] = (
    Row("bert.embeddings.word_embeddings.weight", ("embedding.word.weight",)),
    Row("bert.embeddings.position_embeddings.weight", ("embedding.pos.weight",)),
    Row("bert.embeddings.token_type_embeddings.weight", ("embedding.seg.weight",)),
    *linear("bert.embeddings.LayerNorm", "embedding.norm"),
    *linear(f"{_THEIRS}.attention.self.query", f"{_OURS}.attention.query"),
    *linear(f"{_THEIRS}.attention.self.key", f"{_OURS}.attention.key"),
    *linear(f"{_THEIRS}.attention.self.value", f"{_OURS}.attention.value"),
    *linear(f"{_THEIRS}.attention.output.dense", f"{_OURS}.attention.output"),
    *linear(f"{_THEIRS}.attention.output.LayerNorm", f"{_OURS}.norm1"),
    *linear(f"{_THEIRS}.intermediate.dense", f"{_OURS}.feed_forward.up"),
    *linear(f"{_THEIRS}.output.dense", f"{_OURS}.feed_forward.down"),
    *linear(f"{_THEIRS}.output.LayerNorm", f"{_OURS}.norm2"),
    *linear("bert.pooler.dense", "targets.sp.dense"),
    *linear("cls.predictions.transform.dense", "targets.mlm.transform_layer.dense"),
    *linear("cls.predictions.transform.LayerNorm", "targets.mlm.transform_layer.norm"),
    Row("cls.predictions.bias", ("targets.mlm.output.bias",)),
    *linear("cls.seq_relationship", "targets.sp.output"),
)
"""Every parameter of ``BertForPreTraining``."""

TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
"""Second names in their state dict."""


def model_config(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return our model config for the values of their ``BertConfig``."""
    activation, eps = ACTIVATIONS[theirs["hidden_act"]], theirs["layer_norm_eps"]
    dropout = theirs["hidden_dropout_prob"]
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
            "activation": activation,
            "dropout": dropout,
            "attention_dropout": theirs["attention_probs_dropout_prob"],
        },
        "target": [{"type": "mlm", "activation": activation, "norm_eps": eps}, {"type": "sp"}],
    }
