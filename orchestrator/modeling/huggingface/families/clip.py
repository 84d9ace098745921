"""CLIP: transformers' ``CLIPModel`` as two streams, text and image, and clr.

Radford et al. 2021. The text vector is that of the end token: the last real position, since nothing
follows it but padding. Give ``attention_mask`` for padded texts.
"""

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families.towers import (
    Form,
    contrast_of,
    their_configs,
    towers_table,
)
from orchestrator.modeling.huggingface.families.towers import (
    model_config as towers_config,
)
from orchestrator.modeling.huggingface.keys import Row, Table, linear, same, weight
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.targets.stream_configs import ClrConfig, StreamHeadConfig

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


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``CLIPConfig``.

    Raises:
        InputError: The end token is not the last one of the vocabulary.
    """
    text, vision = theirs.section("text_config"), theirs.section("vision_config")
    for part in (theirs, text, vision):
        part.require(initializer_factor=1.0)
    spread = text.number("initializer_range")
    vision.require(initializer_range=spread)
    last, end = text.integer("vocab_size") - 1, text.optional_integer("eos_token_id")
    if end not in (LARGEST_TOKEN, last):
        raise InputError(
            f"text_config.eos_token_id: {end!r} is not supported; only the last "
            f"token of the vocabulary ({last}) is, or 2, which means the same there."
        )
    form = Form(
        causal=True,
        class_token=True,
        patch_bias=False,
        image_norm_eps=vision.number("layer_norm_eps"),
        initializer_range=spread,
        initialization="clip",
    )
    head = ClrConfig(
        first=StreamHeadConfig(pooling="last"),
        second=StreamHeadConfig(pooling="first"),
        projection_size=theirs.integer("projection_dim"),
        logit_scale=theirs.number("logit_scale_init_value"),
    )
    return towers_config(theirs, form, head)


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``CLIPConfig``."""
    head, (text, vision) = contrast_of(config), their_configs(config)
    shared: JsonObject = {
        "initializer_range": config.initializer_range,
        "projection_dim": head.projection_size,
    }
    return {
        "text_config": text | {"eos_token_id": config.vocab_size - 1} | shared,
        "vision_config": vision | shared,
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
