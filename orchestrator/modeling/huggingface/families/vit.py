"""ViT and DeiT: transformers' classes as patch + pos, pre-norm encoder, and cls.

Touvron et al. 2021 (DeiT) put a second token after the class token, for a teacher's answers.
"""

from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PatchConfig, PosConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families.vision import (
    blocks_table,
    encoder_options,
    image_part,
    key_rows,
    patches_of,
    patches_table,
    positions_row,
    their_encoder,
    their_image,
)
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    labels_of,
    transformer_of,
)
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig, VectorConfig

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


def model_config(
    heads: Sequence[Callable[[Values], TargetConfig]], distillation: bool, theirs: Values
) -> ModelConfig:
    """Return our model config for a ``ViTConfig`` or ``DeiTConfig``.

    Args:
        heads: What makes the targets.
        distillation: Whether there is a second token, for a teacher's answers.
        theirs: Their config.
    """
    theirs.require(qkv_bias=True)
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        max_position_embeddings=patches_of(theirs) + 1 + distillation,
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(
                image_part(PatchConfig, theirs, distillation_token=distillation),
                PosConfig(),
            ),
            layernorm=False,
            dropout=theirs.number("hidden_dropout_prob"),
        ),
        encoder=encoder_options(theirs),
        target=tuple(head(theirs) for head in heads),
    )


def classifier(theirs: Values) -> ClsConfig:
    """Return a linear classifier of the class token."""
    return ClsConfig(num_labels=len(theirs.labels()), pooling="first", dropout=0.0)


def pooler(theirs: Values) -> VectorConfig:
    """Return the pooler of a body without a head."""
    theirs.require(pooler_act="tanh", pooler_output_size=theirs.integer("hidden_size"))
    return VectorConfig(pooling="first", hidden=True)


def shared_classifier(theirs: Values) -> ClsConfig:
    """Return the classifier of the labels, for models that also have one of a teacher's answers."""
    count = len(theirs.labels())
    return ClsConfig(num_labels=count, pooling="first", dropout=0.0, weight=0.5)


def teacher_classifier(theirs: Values) -> ClsConfig:
    """Return the classifier of a teacher's answers, which reads the second token."""
    count = len(theirs.labels())
    return ClsConfig(
        num_labels=count, pooling="second", dropout=0.0, name="distillation", weight=0.5
    )


def their_config(config: ModelConfig) -> JsonObject:
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
    name: str, heads: Sequence[Callable[[Values], TargetConfig]], rows: Table
) -> Architecture:
    model_type = "vit" if name.startswith("ViT") else "deit"
    return Architecture(
        name,
        model_type,
        partial(model_config, heads, model_type == "deit"),
        their_config,
        partial(table, rows),
        processor="image",
    )


_DEIT = body("deit.", distillation=True)
_BOTH = [shared_classifier, teacher_classifier]
ARCHITECTURES = (
    _architecture("ViTModel", [pooler], (*body(""), *POOLER)),
    _architecture("ViTForImageClassification", [classifier], (*body("vit."), *CLASSIFIER)),
    _architecture("DeiTModel", [pooler], (*body("", distillation=True), *POOLER)),
    _architecture("DeiTForImageClassification", [classifier], (*_DEIT, *CLASSIFIER)),
    _architecture("DeiTForImageClassificationWithTeacher", _BOTH, (*_DEIT, *WITH_TEACHER)),
)
