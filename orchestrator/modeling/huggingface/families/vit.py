"""ViT and DeiT: transformers' classes as patch + pos, pre-norm encoder, and cls.

Touvron et al. 2021 (DeiT) put a second token after the class token, for a teacher's answers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.vision import (
    blocks_table,
    encoder_options,
    image_options,
    key_rows,
    patches_of,
    patches_table,
    positions_row,
    their_encoder,
    their_image,
)
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same
from orchestrator.modeling.huggingface.values import (
    labels_of,
    num_labels_of,
    require,
    transformer_of,
)
from orchestrator.modeling.targets.configs import ClsConfig

CLASSIFIER: Table = linear("classifier", "targets.cls.output")
WITH_TEACHER: Table = (
    *linear("cls_classifier", "targets.cls.output"),
    *linear("distillation_classifier", "targets.distillation.output"),
)


POOLER: Table = linear("pooler.dense", "targets.vector.dense")


def body(prefix: str, *, distillation: bool = False) -> Table:
    """Return the rows of embedding and encoder; ``prefix`` is ``vit.``, or empty without head."""
    token = f"{prefix}embeddings.distillation_token"
    second = same(token, "embedding.patch.distillation_token", leading_axes=2)
    return (
        *patches_table(prefix, "embedding.patch"),
        *((second,) if distillation else ()),
        *positions_row(prefix, "embedding.pos"),
        *blocks_table(prefix),
        *key_rows(prefix),
        *linear(f"{prefix}layernorm", "encoder.norm"),
    )


def body_config(theirs: Values, *, distillation: bool) -> dict[str, Any]:
    """Return embedding and encoder for a ``ViTConfig`` or ``DeiTConfig``."""
    require(theirs, qkv_bias=True)
    patch = {"type": "patch", **image_options(theirs), "distillation_token": distillation}
    return {
        "hidden_size": theirs["hidden_size"],
        "max_position_embeddings": patches_of(theirs) + 1 + distillation,
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


def bare_config(distillation: bool, theirs: Values) -> dict[str, Any]:
    """Return our model config of a body with its pooler."""
    require(theirs, pooler_act="tanh", pooler_output_size=theirs["hidden_size"])
    head = {"type": "vector", "pooling": "first", "hidden": True}
    return body_config(theirs, distillation=distillation) | {"target": [head]}


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
    head = config.target[0]
    return values | (labels_of(head) if isinstance(head, ClsConfig) else {})


def table(rows: Table, config: ModelConfig) -> list[Row]:
    """Return every parameter."""
    return expand(rows, transformer_of(config).num_layers)


def _architecture(
    name: str, model_config: Callable[[Values], dict[str, Any]], rows: Table
) -> Architecture:
    model_type = "vit" if name.startswith("ViT") else "deit"
    return Architecture(
        name, model_type, model_config, their_config, partial(table, rows), processor="image"
    )


_DEIT = body("deit.", distillation=True)
ARCHITECTURES = (
    _architecture("ViTModel", partial(bare_config, False), (*body(""), *POOLER)),
    _architecture(
        "ViTForImageClassification", partial(model_config, False), (*body("vit."), *CLASSIFIER)
    ),
    _architecture("DeiTModel", partial(bare_config, True), (*body("", distillation=True), *POOLER)),
    _architecture("DeiTForImageClassification", partial(model_config, True), (*_DEIT, *CLASSIFIER)),
    _architecture("DeiTForImageClassificationWithTeacher", teacher_config, (*_DEIT, *WITH_TEACHER)),
)
