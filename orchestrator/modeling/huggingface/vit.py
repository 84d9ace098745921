"""ViT and DeiT: transformers' classes as patch + pos, pre-norm encoder, and cls.

Touvron et al. 2021 (DeiT) put a second token after the class token, for a teacher's answers.
"""

from functools import partial
from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same
from orchestrator.modeling.huggingface.values import (
    labels_of,
    num_labels_of,
    require,
    transformer_of,
)
from orchestrator.modeling.huggingface.vision import (
    blocks_table,
    encoder_options,
    image_options,
    key_rows,
    patches_table,
    positions_row,
    their_encoder,
    their_image,
)

CLASSIFIER: Table = linear("classifier", "targets.cls.output")
WITH_TEACHER: Table = (
    *linear("cls_classifier", "targets.cls.output"),
    *linear("distillation_classifier", "targets.distillation.output"),
)


def body(name: str) -> Table:
    """Return the rows of embedding and encoder; ``name`` is their name of the body."""
    return (
        *patches_table(name, "embedding.patch"),
        *positions_row(name, "embedding.pos"),
        *blocks_table(name),
        *key_rows(name),
        *linear(f"{name}.layernorm", "encoder.norm"),
    )


DISTILLATION: Table = (
    same(
        "deit.embeddings.distillation_token", "embedding.patch.distillation_token", leading_axes=2
    ),
)


def body_config(theirs: Values, *, distillation: bool) -> dict[str, Any]:
    """Return embedding and encoder for a ``ViTConfig`` or ``DeiTConfig``."""
    require(theirs, qkv_bias=True)
    patch = {"type": "patch", **image_options(theirs), "distillation_token": distillation}
    patches = (theirs["image_size"] // theirs["patch_size"]) ** 2
    return {
        "hidden_size": theirs["hidden_size"],
        "max_position_embeddings": patches + 1 + distillation,
        "initializer_range": theirs["initializer_range"],
        "embedding": {
            "parts": [patch, "pos"],
            "layernorm": False,
            "dropout": theirs["hidden_dropout_prob"],
        },
        "encoder": encoder_options(theirs),
    }


def classifier(theirs: Values, pooling: str = "first") -> dict[str, Any]:
    """Return a linear classifier of one token."""
    return {"type": "cls", "num_labels": num_labels_of(theirs), "pooling": pooling, "dropout": 0.0}


def model_config(distillation: bool, theirs: Values) -> dict[str, Any]:
    """Return our model config of an image classifier."""
    return body_config(theirs, distillation=distillation) | {"target": [classifier(theirs)]}


def teacher_config(theirs: Values) -> dict[str, Any]:
    """Return our model config with a head for the labels and one for a teacher's answers."""
    heads = [
        classifier(theirs) | {"weight": 0.5},
        classifier(theirs, "second") | {"name": "distillation", "weight": 0.5},
    ]
    return body_config(theirs, distillation=True) | {"target": heads}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``ViTConfig`` or ``DeiTConfig``."""
    values = their_encoder(transformer_of(config), config.hidden_size)
    values |= their_image(config.embedding.part("patch"))
    values["initializer_range"] = config.initializer_range
    return values | labels_of(config.target[0])


def table(rows: Table, config: ModelConfig) -> list[Row]:
    """Return every parameter."""
    return expand(rows, transformer_of(config).num_layers)


ARCHITECTURES = (
    Architecture(
        "ViTForImageClassification",
        "vit",
        partial(model_config, False),
        their_config,
        partial(table, (*body("vit"), *CLASSIFIER)),
        processor="image",
    ),
    Architecture(
        "DeiTForImageClassification",
        "deit",
        partial(model_config, True),
        their_config,
        partial(table, (*body("deit"), *DISTILLATION, *CLASSIFIER)),
        processor="image",
    ),
    Architecture(
        "DeiTForImageClassificationWithTeacher",
        "deit",
        teacher_config,
        their_config,
        partial(table, (*body("deit"), *DISTILLATION, *WITH_TEACHER)),
        processor="image",
    ),
)
