"""Rows and values that ViT, DeiT, BEiT and ViLT share, and the towers of CLIP in part."""

from typing import TypeVar

from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.embeddings.configs import ImageConfig, MaskedPatchConfig, PatchConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.keys import Table, linear, same
from orchestrator.modeling.huggingface.values import JsonObject, Values, their_activation
from orchestrator.modeling.layers.block_options import PatchBiasConfig, Projection

Image = TypeVar("Image", PatchConfig, MaskedPatchConfig)

OURS = "encoder.layers.{layer}"


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
