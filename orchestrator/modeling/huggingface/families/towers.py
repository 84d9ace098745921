"""The towers of CLIP and SigLIP alone: text or image in, one vector out.

CLIP's image tower normalizes the class token only, so that its states stay as the last block gives
them. SigLIP's text vector is that of the last position: see ``siglip`` about masks.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PatchConfig, PosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families import clip, siglip
from orchestrator.modeling.huggingface.families.vit import image_part, their_image
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.targets.configs import VectorConfig

REPEATED = (Repeat("*embeddings.position_ids"),)
PROJECTION = "targets.vector.projection"
SIDES = {
    "text_model.": ("embedding.dual.first.", "encoder.first."),
    "vision_model.": ("embedding.dual.second.", "encoder.second."),
}
"""First part of names of theirs in the whole model → beginnings of ours there."""


def text_config(theirs: Values, *, causal: bool, head: VectorConfig) -> ModelConfig:
    """Return our model config of a text tower."""
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        pad_token_id=theirs.integer("pad_token_id", 0),
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), PosConfig()), layernorm=False, dropout=0.0
        ),
        encoder=clip.tower(theirs, mask="causal" if causal else "bidirectional"),
        target=(head,),
    )


def image_config(theirs: Values, *, of_clip: bool, head: VectorConfig | None) -> ModelConfig:
    """Return our model config of an image tower."""
    eps = theirs.number("layer_norm_eps")
    patch = image_part(PatchConfig, theirs, bias=not of_clip, class_token=of_clip)
    encoder = clip.tower(theirs, mask="bidirectional")
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        max_position_embeddings=patch.positions(),
        embedding=EmbeddingStackConfig(
            parts=(patch, PosConfig()),
            layernorm=of_clip,
            norm_eps=eps if of_clip else clip.DEFAULT_NORM_EPS,
            dropout=0.0,
        ),
        encoder=encoder.model_copy(update={"final_norm": not of_clip}),
        target=() if head is None else (head,),
    )


def clip_text(projected: bool, theirs: Values) -> ModelConfig:
    """Return our config of ``CLIPTextModel`` or ``CLIPTextModelWithProjection``."""
    clip.require_end(theirs)
    size = theirs.integer("projection_dim") if projected else None
    head = VectorConfig(pooling="last", projection_size=size)
    config = text_config(theirs, causal=True, head=head)
    first = {"initializer_range": theirs.number("initializer_range"), "initialization": "clip"}
    return config.model_copy(update=first)


def clip_image(projected: bool, theirs: Values) -> ModelConfig:
    """Return our config of ``CLIPVisionModel`` or ``CLIPVisionModelWithProjection``."""
    size = theirs.integer("projection_dim") if projected else None
    eps = theirs.number("layer_norm_eps")
    head = VectorConfig(pooling="first", norm_eps=eps, projection_size=size)
    config = image_config(theirs, of_clip=True, head=head)
    first = {"initializer_range": theirs.number("initializer_range"), "initialization": "clip"}
    return config.model_copy(update=first)


def siglip_text(theirs: Values) -> ModelConfig:
    """Return our config of ``SiglipTextModel``."""
    size = theirs.integer("projection_size")
    head = VectorConfig(pooling="last", projection_size=size, projection_bias=True)
    return text_config(theirs, causal=False, head=head)


def siglip_image(theirs: Values) -> ModelConfig:
    """Return our config of ``SiglipVisionModel``, with or without its head."""
    pooled = theirs.flag("vision_use_head", True)
    head = VectorConfig(attention=siglip.attention_of(theirs)) if pooled else None
    return image_config(theirs, of_clip=False, head=head)


def their_text(config: ModelConfig) -> JsonObject:
    """Return the values of a text tower."""
    head = config.target[0]
    size = head.projection_size if isinstance(head, VectorConfig) else None
    last: JsonObject = {"eos_token_id": config.vocab_size - 1}
    values = clip.their_tower(transformer_of(config), config.hidden_size)
    return (
        values
        | last
        | {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "pad_token_id": config.pad_token_id,
            **_projection(size),
        }
    )


def their_images(config: ModelConfig) -> JsonObject:
    """Return the values of an image tower."""
    head = config.target[0] if config.target else None
    size = head.projection_size if isinstance(head, VectorConfig) else None
    values = clip.their_tower(transformer_of(config), config.hidden_size)
    return values | their_image(config.embedding.part("patch")) | _projection(size)


def _projection(size: int | None) -> JsonObject:
    return {} if size is None else {"projection_dim": size, "projection_size": size}


def of_clip(values: Callable[[ModelConfig], JsonObject], config: ModelConfig) -> JsonObject:
    """Return the values of a tower of CLIP, whose configs hold the spread of new weights."""
    found = values(config) | {"initializer_range": config.initializer_range}
    found.pop("projection_size", None)
    return found


def of_siglip(values: Callable[[ModelConfig], JsonObject], config: ModelConfig) -> JsonObject:
    """Return the values of a tower of SigLIP."""
    found = values(config)
    found.pop("projection_dim", None)
    name = str(found["hidden_act"])
    found["hidden_act"] = siglip.FUSED.get(name, name)
    if "image_size" in found and not config.target:
        found["vision_use_head"] = False
    return found


def rows_of(side: str, front: str, config: ModelConfig, *more: Row) -> list[Row]:
    """Return the rows of a tower.

    Args:
        side: Where its tensors are in the whole model: ``text_model.``.
        front: The same in this class; empty for a body alone.
        config: Our config.
        more: Rows of the whole model's class for this tower, named as there.
    """
    text = side == "text_model."
    rows: Table = (
        *(clip.TEXT if text else clip.IMAGES),
        *more,
        *clip.blocks(side[:-1], "first" if text else "second", transformer_of(config).num_layers),
    )
    return [_alone(row, side, front) for row in rows]


def _alone(row: Row, side: str, front: str) -> Row:
    """Return a row of a tower alone."""
    embedding, encoder = SIDES[side]
    ours = tuple(
        name.replace(embedding, "embedding.").replace(encoder, "encoder.") for name in row.ours
    )
    theirs = tuple(
        front + name.removeprefix(side) if name.startswith(side) else name for name in row.theirs
    )
    return replace(row, theirs=theirs, ours=ours)


def clip_text_table(front: str, config: ModelConfig) -> list[Row]:
    """Return every parameter of CLIP's text tower."""
    rows = rows_of("text_model.", front, config)
    return [*rows, *((weight("text_projection", PROJECTION),) if front else ())]


def clip_image_table(front: str, config: ModelConfig) -> list[Row]:
    """Return every parameter of CLIP's image tower; the last norm is the vector's."""
    more = [row for row in clip.TABLE if row.theirs[0].startswith("vision_model.")]
    rows = [
        replace(row, ours=tuple(n.replace("encoder.norm", "targets.vector.norm") for n in row.ours))
        for row in rows_of("vision_model.", front, config, *more)
    ]
    return [*rows, *((weight("visual_projection", PROJECTION),) if front else ())]


def siglip_text_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of SigLIP's text tower."""
    return [*rows_of("text_model.", "", config), *linear("head", PROJECTION)]


def siglip_image_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of SigLIP's image tower."""
    more = [row for row in siglip.TABLE if row.theirs[0].startswith("vision_model.")]
    if not config.target:
        more = [row for row in more if not row.theirs[0].startswith("vision_model.head.")]
    pool = "targets.vector.pool"
    return [
        replace(row, ours=tuple(n.replace(siglip.POOL, pool) for n in row.ours))
        for row in rows_of("vision_model.", "", config, *more)
    ]


def _text(name: str, projected: bool) -> Architecture:
    front = "text_model." if projected else ""
    return Architecture(
        name,
        "clip_text_model",
        partial(clip_text, projected),
        partial(of_clip, their_text),
        partial(clip_text_table, front),
        REPEATED,
        processor="ended_text",
        front="" if projected else "text_model",
    )


def _images(name: str, projected: bool) -> Architecture:
    front = "vision_model." if projected else ""
    return Architecture(
        name,
        "clip_vision_model",
        partial(clip_image, projected),
        partial(of_clip, their_images),
        partial(clip_image_table, front),
        REPEATED,
        processor="image",
        front="" if projected else "vision_model",
    )


ARCHITECTURES = (
    _text("CLIPTextModel", projected=False),
    _text("CLIPTextModelWithProjection", projected=True),
    _images("CLIPVisionModel", projected=False),
    _images("CLIPVisionModelWithProjection", projected=True),
    Architecture(
        "SiglipTextModel",
        "siglip_text_model",
        siglip_text,
        partial(of_siglip, their_text),
        siglip_text_table,
        REPEATED,
        processor="ended_text",
        front="text_model",
    ),
    Architecture(
        "SiglipVisionModel",
        "siglip_vision_model",
        siglip_image,
        partial(of_siglip, their_images),
        siglip_image_table,
        REPEATED,
        processor="image",
        front="vision_model",
    ),
)
