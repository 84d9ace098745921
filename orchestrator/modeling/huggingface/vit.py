"""ViT: transformers' ``ViTForImageClassification`` as patch + pos + pre-norm encoder + cls."""

from collections.abc import Mapping
from typing import Any

from orchestrator.modeling.huggingface.activations import ACTIVATIONS
from orchestrator.modeling.huggingface.keys import Row, linear

_THEIRS = "vit.layers.{layer}"
_OURS = "encoder.layers.{layer}"

TABLE: tuple[Row, ...] = (
    Row("vit.embeddings.cls_token", ("embedding.patch.class_token",), leading_axes=2),
    Row("vit.embeddings.position_embeddings", ("embedding.pos.weight",), leading_axes=1),
    *linear("vit.embeddings.patch_embeddings.projection", "embedding.patch.projection"),
    *linear(f"{_THEIRS}.attention.q_proj", f"{_OURS}.attention.query"),
    *linear(f"{_THEIRS}.attention.k_proj", f"{_OURS}.attention.key"),
    *linear(f"{_THEIRS}.attention.v_proj", f"{_OURS}.attention.value"),
    *linear(f"{_THEIRS}.attention.o_proj", f"{_OURS}.attention.output"),
    *linear(f"{_THEIRS}.layernorm_before", f"{_OURS}.norm1"),
    *linear(f"{_THEIRS}.layernorm_after", f"{_OURS}.norm2"),
    *linear(f"{_THEIRS}.mlp.fc1", f"{_OURS}.feed_forward.up"),
    *linear(f"{_THEIRS}.mlp.fc2", f"{_OURS}.feed_forward.down"),
    *linear("vit.layernorm", "encoder.norm"),
    *linear("classifier", "targets.cls.output"),
)
"""Every parameter of ``ViTForImageClassification`` (names of transformers 5)."""

TIED: tuple[str, ...] = ()
"""Second names in their state dict."""


def model_config(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return our model config for the values of their ``ViTConfig``."""
    patch = {
        "type": "patch",
        "image_size": theirs["image_size"],
        "patch_size": theirs["patch_size"],
        "channels": theirs["num_channels"],
    }
    dropout = theirs["hidden_dropout_prob"]
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
            "activation": ACTIVATIONS[theirs["hidden_act"]],
            "dropout": dropout,
            "attention_dropout": theirs["attention_probs_dropout_prob"],
        },
        "target": [
            {
                "type": "cls",
                "num_labels": len(theirs["id2label"]),
                "pooling": "first",
                "dropout": 0.0,
            }
        ],
    }
