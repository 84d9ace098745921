"""BEiT: transformers' ``Beit*`` classes as (masked) patches, relative biases, and mim or cls.

Bao et al. 2022: no bias on keys, a learned factor on each sub-layer, a bias for each offset between
patches in place of absolute positions.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.vision import (
    OURS,
    blocks_table,
    encoder_options,
    image_options,
    patches_table,
    positions_row,
    square,
    their_encoder,
    their_image,
)
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same, weight
from orchestrator.modeling.huggingface.values import (
    labels_of,
    num_labels_of,
    require,
    transformer_of,
)
from orchestrator.modeling.layers.block_options import PatchBiasConfig

_LAYER = "beit.encoder.layer.{layer}"
_BIAS = "relative_position_bias.relative_position_bias_table"

MIM: Table = (*linear("layernorm", "encoder.norm"), *linear("lm_head", "targets.mim.output"))
CLS: Table = (
    *linear("beit.pooler.layernorm", "targets.cls.norm"),
    *linear("classifier", "targets.cls.output"),
)


def mim_config(theirs: Values) -> dict[str, Any]:
    """Return our config of ``BeitForMaskedImageModeling``."""
    require(theirs, use_mask_token=True)
    head = {"type": "mim", "num_codes": theirs["vocab_size"]}
    return _body(theirs, "masked_patch", final_norm=True) | {"target": [head]}


def cls_config(theirs: Values) -> dict[str, Any]:
    """Return our config of ``BeitForImageClassification``."""
    require(theirs, use_mask_token=False)
    head = {
        "type": "cls",
        "num_labels": num_labels_of(theirs),
        "pooling": "rest",
        "norm_eps": theirs["layer_norm_eps"],
        "dropout": 0.0,
    }
    return _body(theirs, "patch", final_norm=False) | {"target": [head]}


def _body(theirs: Values, part: str, *, final_norm: bool) -> dict[str, Any]:
    require(theirs, use_mean_pooling=True)
    side = square(theirs, "image_size") // square(theirs, "patch_size")
    absolute = ["pos"] if theirs["use_absolute_position_embeddings"] else []
    return {
        "hidden_size": theirs["hidden_size"],
        "max_position_embeddings": side**2 + 1,
        "initializer_range": theirs["initializer_range"],
        "embedding": {
            "parts": [{"type": part, **image_options(theirs)}, *absolute],
            "layernorm": False,
            "dropout": theirs["hidden_dropout_prob"],
        },
        "encoder": encoder_options(theirs)
        | {
            "attention_bias": ["query", "value", "output"],
            "position_bias": _position_bias(theirs, side),
            "layer_scale": theirs["layer_scale_init_value"] or None,
            "drop_path": theirs["drop_path_rate"],
            "final_norm": final_norm,
        },
    }


def _position_bias(theirs: Values, side: int) -> dict[str, Any] | None:
    """Return the bias: none, one in each layer, or one for all.

    Raises:
        InputError: Both are on.
    """
    own, shared = theirs["use_relative_position_bias"], theirs["use_shared_relative_position_bias"]
    if own and shared:
        raise InputError(
            "use_relative_position_bias and use_shared_relative_position_bias: only one of them is "
            "supported."
        )
    bias = {"type": "patches", "rows": side, "columns": side, "shared": shared}
    return bias if own or shared else None


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of a ``BeitConfig``."""
    encoder = transformer_of(config)
    bias = encoder.position_bias
    shared = isinstance(bias, PatchBiasConfig) and bias.shared
    image = config.embedding.part("masked_patch")
    return {
        **their_encoder(encoder, config.hidden_size),
        **their_image(image or config.embedding.part("patch")),
        "initializer_range": config.initializer_range,
        "use_mask_token": image is not None,
        "use_absolute_position_embeddings": config.embedding.part("pos") is not None,
        "use_relative_position_bias": bias is not None and not shared,
        "use_shared_relative_position_bias": shared,
        "layer_scale_init_value": encoder.layer_scale or 0.0,
        "drop_path_rate": encoder.drop_path,
        **_their_head(config),
    }


def _their_head(config: ModelConfig) -> dict[str, Any]:
    head = config.target[0]
    codes: int | None = getattr(head, "num_codes", None)
    return labels_of(head) if codes is None else {"vocab_size": codes}


def _body_table(config: ModelConfig, encoder: TransformerConfig) -> Iterator[Row]:
    """Yield the rows of embedding and encoder, as far as the options have them."""
    masked = config.embedding.part("masked_patch") is not None
    part = "embedding.masked_patch" if masked else "embedding.patch"
    yield from patches_table("beit.", part)
    if masked:
        yield same("beit.embeddings.mask_token", f"{part}.mask_token", leading_axes=2)
    if config.embedding.part("pos") is not None:
        yield from positions_row("beit.", "embedding.pos")
    yield from blocks_table("beit.")
    yield weight(f"{_LAYER}.attention.attention.key", f"{OURS}.attention.key")
    if encoder.layer_scale is not None:
        yield same(f"{_LAYER}.lambda_1", f"{OURS}.scale1.weight")
        yield same(f"{_LAYER}.lambda_2", f"{OURS}.scale2.weight")
    if isinstance(encoder.position_bias, PatchBiasConfig):
        if encoder.position_bias.shared:
            yield same(f"beit.encoder.{_BIAS}", "encoder.position_bias.weight")
        else:
            yield same(f"{_LAYER}.attention.attention.{_BIAS}", f"{OURS}.position_bias.weight")


def table(head: Table, config: ModelConfig) -> list[Row]:
    """Return every parameter."""
    encoder = transformer_of(config)
    return expand((*_body_table(config, encoder), *head), encoder.num_layers)


def _architecture(
    name: str, model_config: Callable[[Values], dict[str, Any]], head: Table
) -> Architecture:
    return Architecture(
        name,
        "beit",
        model_config,
        their_config,
        partial(table, head),
        repeated=("*.relative_position_index",),
        processor="image",
    )


ARCHITECTURES = (
    _architecture("BeitForMaskedImageModeling", mim_config, MIM),
    _architecture("BeitForImageClassification", cls_config, CLS),
)
