"""What the vision transformers of transformers share: ViT, DeiT, BEiT; and the towers of CLIP."""

from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.embeddings.configs import ImageConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import Values
from orchestrator.modeling.huggingface.keys import Table, linear, same
from orchestrator.modeling.huggingface.values import activation_of, their_activation

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


def square(theirs: Values, key: str) -> int:
    """Return a size that they may give once or for height and width.

    Raises:
        InputError: It is not square.
    """
    sizes = theirs[key] if isinstance(theirs[key], (list, tuple)) else [theirs[key]]
    if len(set(sizes)) != 1:
        raise InputError(f"{key}: {theirs[key]!r} is not supported; only squares are.")
    return int(sizes[0])


def patches_of(theirs: Values) -> int:
    """Return the number of patches of an image."""
    side = square(theirs, "image_size") // square(theirs, "patch_size")
    return side * side


def image_options(theirs: Values) -> dict[str, Any]:
    """Return the sizes of an image part."""
    return {
        "image_size": square(theirs, "image_size"),
        "patch_size": square(theirs, "patch_size"),
        "channels": theirs["num_channels"],
    }


def their_image(part: EmbeddingConfig | None) -> dict[str, Any]:
    """Return the sizes of an image part in their words; nothing if there is no such part."""
    if not isinstance(part, ImageConfig):
        return {}
    return {
        "image_size": part.image_size,
        "patch_size": part.patch_size,
        "num_channels": part.channels,
    }


def encoder_options(theirs: Values) -> dict[str, Any]:
    """Return the pre-norm encoder of a ``ViTConfig`` or one with the same names."""
    return {
        "type": "transformer",
        "num_layers": theirs["num_hidden_layers"],
        "num_heads": theirs["num_attention_heads"],
        "intermediate_size": theirs["intermediate_size"],
        "norm_position": "pre",
        "norm_eps": theirs["layer_norm_eps"],
        "activation": activation_of(theirs, "hidden_act"),
        "dropout": theirs["hidden_dropout_prob"],
        "attention_dropout": theirs["attention_probs_dropout_prob"],
    }


def their_encoder(encoder: TransformerConfig, width: int) -> dict[str, Any]:
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
