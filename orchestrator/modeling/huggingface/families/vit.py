"""ViT and DeiT: transformers' classes as patch + pos, pre-norm encoder, and cls.

Touvron et al. 2021 (DeiT) put a second token after the class token, for a teacher's answers. BEiT,
ViLT and in part the towers of CLIP share the rows and values at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import (
    ImageConfig,
    MaskedPatchConfig,
    PatchConfig,
    PosConfig,
)
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Row,
    Table,
    expand,
    linear,
    same,
)
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.values import (
    POOLER_STORED,
    JsonObject,
    Values,
    answers_of,
    their_activation,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.layers.bias_options import PatchBiasConfig
from orchestrator.modeling.layers.block_options import Projection
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig, VectorConfig

WITH_TEACHER: Table = (
    *linear("cls_classifier", "targets.cls.output"),
    *linear("distillation_classifier", "targets.distillation.output"),
)
POOLER: Table = linear("pooler.dense", "targets.vector.dense")

Image = TypeVar("Image", PatchConfig, MaskedPatchConfig)

OURS = "encoder.layers.{layer}"


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


def model_config(heads: Sequence[bert.Head], distillation: bool, theirs: Values) -> ModelConfig:
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
        target=bert.targets_of(heads, theirs),
    )


def classifier(theirs: Values) -> TargetConfig:
    """Return a linear layer on the class token: classes, several labels or numbers."""
    return answers_of(theirs, 0.0, None)


def pooler(theirs: Values) -> VectorConfig | None:
    """Return the pooler of a body without a head, if the file holds one."""
    if not theirs.flag(POOLER_STORED, True):
        return None
    theirs.require(pooler_act="tanh", pooler_output_size=theirs.integer("hidden_size"))
    return VectorConfig(pooling="first", hidden=True)


def shared_classifier(theirs: Values) -> ClsConfig:
    """Return the classifier of the labels, for models that also have one of a teacher's answers."""
    if "problem_type" in theirs:
        theirs.require(problem_type="single_label_classification")
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
    if not config.target:
        return values | {POOLER_STORED: False}
    head = config.target[0]
    return values | ({} if isinstance(head, VectorConfig) else their_answers(head))


def table(rows: Table, config: ModelConfig) -> list[Row]:
    """Return every parameter."""
    return expand(rows, transformer_of(config).num_layers)


def classifier_table(rows: Table, config: ModelConfig) -> list[Row]:
    """Return every parameter of a body with a classifier, whatever kind of answers it gives."""
    return table((*rows, *linear("classifier", f"targets.{config.target[0].name}.output")), config)


def patches_table(theirs: str, ours: str) -> Table:
    """Return the rows of class token and projection.

    Args:
        theirs: What stands before their names: ``vit.``; empty for a body without head.
        ours: The embedding part.
    """
    return (
        same(f"{theirs}embeddings.cls_token", f"{ours}.class_token", leading_axes=2),
        *linear(f"{theirs}embeddings.patch_embeddings.projection", f"{ours}.projection"),
    )


def positions_row(theirs: str, ours: str) -> Table:
    """Return the row of the position table."""
    return (same(f"{theirs}embeddings.position_embeddings", f"{ours}.weight", leading_axes=1),)


def blocks_table(theirs: str) -> Table:
    """Return the rows of the blocks but for the key, whose bias some leave out."""
    layer = f"{theirs}encoder.layer.{{layer}}"
    return (
        *linear(f"{layer}.attention.attention.query", f"{OURS}.attention.query"),
        *linear(f"{layer}.attention.attention.value", f"{OURS}.attention.value"),
        *linear(f"{layer}.attention.output.dense", f"{OURS}.attention.output"),
        *linear(f"{layer}.layernorm_before", f"{OURS}.norm1"),
        *linear(f"{layer}.layernorm_after", f"{OURS}.norm2"),
        *linear(f"{layer}.intermediate.dense", f"{OURS}.feed_forward.up"),
        *linear(f"{layer}.output.dense", f"{OURS}.feed_forward.down"),
    )


def key_rows(theirs: str) -> Table:
    """Return the rows of the key with its bias."""
    layer = f"{theirs}encoder.layer.{{layer}}"
    return linear(f"{layer}.attention.attention.key", f"{OURS}.attention.key")


def patches_of(theirs: Values) -> int:
    """Return the number of patches of an image."""
    side = theirs.square("image_size") // theirs.square("patch_size")
    return side * side


def image_part(
    kind: type[Image],
    theirs: Values,
    *,
    bias: bool = True,
    class_token: bool = True,
    distillation_token: bool = False,
) -> Image:
    """Return an image part with the sizes of a ``ViTConfig`` or one with the same names."""
    return kind(
        image_size=theirs.square("image_size"),
        patch_size=theirs.square("patch_size"),
        channels=theirs.integer("num_channels"),
        bias=bias,
        class_token=class_token,
        distillation_token=distillation_token,
    )


def their_image(part: EmbeddingConfig | None) -> JsonObject:
    """Return the sizes of an image part in their words; nothing for another part."""
    if not isinstance(part, ImageConfig):
        return {}
    return {
        "image_size": part.image_size,
        "patch_size": part.patch_size,
        "num_channels": part.channels,
    }


def encoder_options(
    theirs: Values,
    *,
    attention_bias: tuple[Projection, ...] | None = None,
    position_bias: PatchBiasConfig | None = None,
    layer_scale: float | None = None,
    drop_path: float = 0.0,
    final_norm: bool = True,
) -> TransformerConfig:
    """Return the pre-norm encoder of a ``ViTConfig`` or one with the same names.

    Args:
        theirs: Their config.
        attention_bias: Linear layers of attention with a bias; None: all.
        position_bias: Added to attention scores.
        layer_scale: First value of the factors on sub-layers; None: no factors.
        drop_path: Rate at which the last block is skipped.
        final_norm: Whether there is a norm after the last block.
    """
    return TransformerConfig(
        num_layers=theirs.integer("num_hidden_layers"),
        num_heads=theirs.integer("num_attention_heads"),
        intermediate_size=theirs.integer("intermediate_size"),
        norm_position="pre",
        norm_eps=theirs.number("layer_norm_eps"),
        activation=theirs.activation("hidden_act"),
        attention_bias=attention_bias,
        position_bias=position_bias,
        layer_scale=layer_scale,
        dropout=theirs.number("hidden_dropout_prob"),
        attention_dropout=theirs.number("attention_probs_dropout_prob"),
        drop_path=drop_path,
        final_norm=final_norm,
    )


def their_encoder(encoder: TransformerConfig, width: int) -> JsonObject:
    """Return the encoder's options in the words of a ``ViTConfig``; ``width`` is hidden_size."""
    return {
        "hidden_size": width,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.intermediate_size or 4 * width,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
    }


def _architecture(
    name: str,
    heads: Sequence[bert.Head],
    rows: Callable[[ModelConfig], Table],
) -> Architecture:
    model_type = "vit" if name.startswith("ViT") else "deit"
    return Architecture(
        name,
        model_type,
        partial(model_config, heads, model_type == "deit"),
        their_config,
        rows,
        processor="image",
    )


def _body(name: str, rows: Table) -> Architecture:
    """Return a body without a head, with its pooler if the file holds one."""

    def own_table(config: ModelConfig) -> list[Row]:
        return table((*rows, *(POOLER if config.target else ())), config)

    found = _architecture(name, [pooler], own_table)
    return replace(found, arguments=bert.without_pooler, front=found.model_type)


_DEIT = body("deit.", distillation=True)
_BOTH = [shared_classifier, teacher_classifier]
ARCHITECTURES = (
    _body("ViTModel", body("")),
    _architecture(
        "ViTForImageClassification", [classifier], partial(classifier_table, body("vit."))
    ),
    _body("DeiTModel", body("", distillation=True)),
    _architecture("DeiTForImageClassification", [classifier], partial(classifier_table, _DEIT)),
    _architecture(
        "DeiTForImageClassificationWithTeacher", _BOTH, partial(table, (*_DEIT, *WITH_TEACHER))
    ),
)
