"""CLIP: transformers' ``CLIPModel`` as two streams, text and image, and clr.

Radford et al. 2021. The text vector is that of the end token: the last real position, since nothing
follows it but padding. Give ``attention_mask`` for padded texts.
"""

from typing import Any

from orchestrator.errors import InputError
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
from orchestrator.modeling.huggingface.keys import Row, Table, linear, same, weight
from orchestrator.modeling.huggingface.values import require

LARGEST_TOKEN = 2
"""An ``eos_token_id`` of 2 says there: the end is the largest token id of a text."""

TABLE: Table = (
    same("vision_model.embeddings.class_embedding", "embedding.dual.second.patch.class_token"),
    weight("vision_model.embeddings.patch_embedding", "embedding.dual.second.patch.projection"),
    *linear("vision_model.pre_layrnorm", "embedding.dual.second.norm"),
    weight("text_projection", "targets.clr.first.projection"),
    weight("visual_projection", "targets.clr.second.projection"),
    same("logit_scale", "targets.clr.temperature.scale", leading_axes=-1),
)


def model_config(theirs: Values) -> dict[str, Any]:
    """Return our model config for a ``CLIPConfig``.

    Raises:
        InputError: The end token is not the last one of the vocabulary.
    """
    text, vision = theirs["text_config"], theirs["vision_config"]
    for part in (theirs, text, vision):
        require(part, initializer_factor=1.0)
    require(vision, initializer_range=text["initializer_range"])
    last = text["vocab_size"] - 1
    if text["eos_token_id"] not in (LARGEST_TOKEN, last):
        raise InputError(
            f"text_config.eos_token_id: {text['eos_token_id']!r} is not supported; only the last "
            f"token of the vocabulary ({last}) is, or 2, which means the same there."
        )
    images = {
        "patch": {"bias": False, "class_token": True},
        "stack": {"layernorm": True, "norm_eps": vision["layer_norm_eps"]},
    }
    head = {
        "type": "clr",
        "first": {"pooling": "last"},
        "second": {"pooling": "first"},
        "projection_size": theirs["projection_dim"],
        "logit_scale": theirs["logit_scale_init_value"],
    }
    body = towers_config(theirs, images, causal=True)
    start = {"initializer_range": text["initializer_range"], "initialization": "clip"}
    return body | start | {"target": [head]}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``CLIPConfig``."""
    head, both = contrast_of(config), their_configs(config)
    both["text_config"]["eos_token_id"] = config.vocab_size - 1
    for part in both.values():
        part["initializer_range"] = config.initializer_range
        part["projection_dim"] = head.projection_size
    return {
        **both,
        "projection_dim": head.projection_size,
        "logit_scale_init_value": head.first_scale,
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``CLIPModel``."""
    return [*TABLE, *towers_table(config)]


ARCHITECTURES = (
    Architecture(
        "CLIPModel",
        "clip",
        model_config,
        their_config,
        table,
        repeated=("*.embeddings.position_ids",),
        processor="image_text",
    ),
)
