"""SigLIP: transformers' ``SiglipModel`` as two streams, text and image, and clr with sigmoid loss.

Zhai et al. 2023. The text vector is that of the last position. Texts there are padded to the full
length without a mask, so that padding is read like words: leave ``attention_mask`` out, as its own
processor does. With a mask, the vector is that of the last real position.
"""

from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.towers import (
    contrast_of,
    their_configs,
    towers_table,
)
from orchestrator.modeling.huggingface.families.towers import (
    model_config as towers_config,
)
from orchestrator.modeling.huggingface.keys import Row, Table, linear, same
from orchestrator.modeling.huggingface.values import activation_of, require

_HEAD = "vision_model.head"
_POOL = "targets.clr.second.pool"

FUSED = {"gelu_new": "gelu_pytorch_tanh"}
"""Their two names of one function: SigLIP uses the one that is computed in one step."""

TABLE: Table = (
    *linear("vision_model.embeddings.patch_embedding", "embedding.dual.second.patch.projection"),
    *linear("text_model.head", "targets.clr.first.projection"),
    same(f"{_HEAD}.probe", f"{_POOL}.query", leading_axes=2),
    same(
        f"{_HEAD}.attention.in_proj_weight",
        *(f"{_POOL}.attention.{name}.weight" for name in ("query", "key", "value")),
    ),
    same(
        f"{_HEAD}.attention.in_proj_bias",
        *(f"{_POOL}.attention.{name}.bias" for name in ("query", "key", "value")),
    ),
    *linear(f"{_HEAD}.attention.out_proj", f"{_POOL}.attention.output"),
    *linear(f"{_HEAD}.layernorm", f"{_POOL}.norm"),
    *linear(f"{_HEAD}.mlp.fc1", f"{_POOL}.feed_forward.up"),
    *linear(f"{_HEAD}.mlp.fc2", f"{_POOL}.feed_forward.down"),
    same("logit_scale", "targets.clr.temperature.scale"),
    same("logit_bias", "targets.clr.temperature.bias"),
)


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``SiglipConfig``."""
    text, vision = theirs["text_config"], theirs["vision_config"]
    require(theirs, initializer_factor=1.0)
    require(vision, vision_use_head=True)
    require(text, projection_size=vision["hidden_size"])
    images = {"patch": {"bias": True, "class_token": False}, "stack": {}}
    attention = {
        "type": "attention",
        "num_heads": vision["num_attention_heads"],
        "intermediate_size": vision["intermediate_size"],
        "activation": activation_of(vision, "hidden_act"),
        "norm_eps": vision["layer_norm_eps"],
    }
    head = {
        "type": "clr",
        "loss": "sigmoid",
        "first": {"pooling": "last", "bias": True},
        "second": {"pooling": attention, "projection": False},
        "projection_size": text["projection_size"],
    }
    return towers_config(theirs, images, causal=False) | {"target": [head]}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``SiglipConfig``."""
    both = their_configs(config)
    both["text_config"]["projection_size"] = contrast_of(config).projection_size
    for part in both.values():
        part["hidden_act"] = FUSED.get(part["hidden_act"], part["hidden_act"])
    return dict(both)


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``SiglipModel``."""
    return [*TABLE, *towers_table(config)]


ARCHITECTURES = (
    Architecture(
        "SiglipModel",
        "siglip",
        model_config,
        their_config,
        table,
        repeated=("*.embeddings.position_ids",),
        processor="image_text",
    ),
)
