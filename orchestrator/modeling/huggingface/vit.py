"""ViT: transformers' ``ViTForImageClassification`` as patch + pos, pre-norm encoder, and cls."""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.vision_configs import PatchConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.keys import Row, expand, linear, same
from orchestrator.modeling.huggingface.values import (
    activation_of,
    labels_of,
    num_labels_of,
    require,
    their_activation,
    transformer_of,
)

_LAYER = "vit.encoder.layer.{layer}"
_OURS = "encoder.layers.{layer}"

TABLE = (
    same("vit.embeddings.cls_token", "embedding.patch.class_token", leading_axes=2),
    same("vit.embeddings.position_embeddings", "embedding.pos.weight", leading_axes=1),
    *linear("vit.embeddings.patch_embeddings.projection", "embedding.patch.projection"),
    *linear(f"{_LAYER}.attention.attention.query", f"{_OURS}.attention.query"),
    *linear(f"{_LAYER}.attention.attention.key", f"{_OURS}.attention.key"),
    *linear(f"{_LAYER}.attention.attention.value", f"{_OURS}.attention.value"),
    *linear(f"{_LAYER}.attention.output.dense", f"{_OURS}.attention.output"),
    *linear(f"{_LAYER}.layernorm_before", f"{_OURS}.norm1"),
    *linear(f"{_LAYER}.layernorm_after", f"{_OURS}.norm2"),
    *linear(f"{_LAYER}.intermediate.dense", f"{_OURS}.feed_forward.up"),
    *linear(f"{_LAYER}.output.dense", f"{_OURS}.feed_forward.down"),
    *linear("vit.layernorm", "encoder.norm"),
    *linear("classifier", "targets.cls.output"),
)


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``ViTConfig``."""
    require(theirs, qkv_bias=True)
    patch = {
        "type": "patch",
        "image_size": theirs["image_size"],
        "patch_size": theirs["patch_size"],
        "channels": theirs["num_channels"],
    }
    dropout = theirs["hidden_dropout_prob"]
    head = {"type": "cls", "num_labels": num_labels_of(theirs), "pooling": "first", "dropout": 0.0}
    return {
        "hidden_size": theirs["hidden_size"],
        "max_position_embeddings": (theirs["image_size"] // theirs["patch_size"]) ** 2 + 1,
        "initializer_range": theirs["initializer_range"],
        "embedding": {"parts": [patch, "pos"], "layernorm": False, "dropout": dropout},
        "encoder": {
            "type": "transformer",
            "num_layers": theirs["num_hidden_layers"],
            "num_heads": theirs["num_attention_heads"],
            "intermediate_size": theirs["intermediate_size"],
            "norm_position": "pre",
            "norm_eps": theirs["layer_norm_eps"],
            "activation": activation_of(theirs, "hidden_act"),
            "dropout": dropout,
            "attention_dropout": theirs["attention_probs_dropout_prob"],
        },
        "target": [head],
    }


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``ViTConfig``."""
    encoder, patch = transformer_of(config), config.embedding.part("patch")
    values: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
    }
    if isinstance(patch, PatchConfig):
        values |= {
            "image_size": patch.image_size,
            "patch_size": patch.patch_size,
            "num_channels": patch.channels,
        }
    return values | labels_of(config.target[0])


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``ViTForImageClassification``."""
    return expand(TABLE, transformer_of(config).num_layers)


ARCHITECTURES = (
    Architecture(
        "ViTForImageClassification", "vit", model_config, their_config, table, processor="image"
    ),
)
