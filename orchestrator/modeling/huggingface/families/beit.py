"""BEiT: transformers' ``Beit*`` classes as (masked) patches, relative biases, and mim or cls.

Bao et al. 2022: no bias on keys, a learned factor on each sub-layer, a bias for each offset between
patches in place of absolute positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from orchestrator.errors import InputError
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
    Repeat,
    Row,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.families.vit import (
    OURS,
    blocks_table,
    encoder_options,
    image_part,
    patches_table,
    positions_row,
    their_encoder,
    their_image,
)
from orchestrator.modeling.huggingface.values import (
    POOLER_STORED,
    JsonObject,
    Values,
    answers_of,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.layers.bias_options import PatchBiasConfig
from orchestrator.modeling.targets.configs import TargetConfig, VectorConfig
from orchestrator.modeling.targets.token_configs import MimConfig

_LAYER = "beit.encoder.layer.{layer}"
_BIAS = "relative_position_bias.relative_position_bias_table"

MIM: Table = (*linear("layernorm", "encoder.norm"), *linear("lm_head", "targets.mim.output"))


def mim_config(theirs: Values) -> ModelConfig:
    """Return our config of ``BeitForMaskedImageModeling``."""
    theirs.require(use_mask_token=True)
    head = MimConfig(num_codes=theirs.integer("vocab_size"))
    return _model_config(theirs, image_part(MaskedPatchConfig, theirs), head, final_norm=True)


def cls_config(theirs: Values) -> ModelConfig:
    """Return our config of ``BeitForImageClassification``."""
    theirs.require(use_mask_token=False)
    head = answers_of(theirs, 0.0, None, pooling="rest", norm_eps=theirs.number("layer_norm_eps"))
    return _model_config(theirs, image_part(PatchConfig, theirs), head, final_norm=False)


def body_config(theirs: Values) -> ModelConfig:
    """Return our config of ``BeitModel``, with its pooler if the file holds one."""
    masks = theirs.flag("use_mask_token")
    image = image_part(MaskedPatchConfig, theirs) if masks else image_part(PatchConfig, theirs)
    eps = theirs.number("layer_norm_eps")
    pooler = VectorConfig(pooling="rest", norm_eps=eps)
    head = pooler if theirs.flag(POOLER_STORED, True) else None
    return _model_config(theirs, image, head, final_norm=False)


def _model_config(
    theirs: Values, image: ImageConfig, head: TargetConfig | None, *, final_norm: bool
) -> ModelConfig:
    theirs.require(use_mean_pooling=True)
    absolute = (PosConfig(),) if theirs.flag("use_absolute_position_embeddings") else ()
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        max_position_embeddings=image.positions(),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(image, *absolute), layernorm=False, dropout=theirs.number("hidden_dropout_prob")
        ),
        encoder=encoder_options(
            theirs,
            attention_bias=("query", "value", "output"),
            position_bias=_position_bias(theirs, image.side),
            layer_scale=theirs.number("layer_scale_init_value") or None,
            drop_path=theirs.number("drop_path_rate"),
            final_norm=final_norm,
        ),
        target=() if head is None else (head,),
    )


def _position_bias(theirs: Values, side: int) -> PatchBiasConfig | None:
    """Return the bias: none, one in each layer, or one for all.

    Raises:
        InputError: Both are on.
    """
    own = theirs.flag("use_relative_position_bias")
    shared = theirs.flag("use_shared_relative_position_bias")
    if own and shared:
        raise InputError(
            "use_relative_position_bias and use_shared_relative_position_bias: only one of them is "
            "supported."
        )
    bias = PatchBiasConfig(rows=side, columns=side, shared=shared)
    return bias if own or shared else None


def their_config(config: ModelConfig) -> JsonObject:
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


def _their_head(config: ModelConfig) -> JsonObject:
    if not config.target:
        return {POOLER_STORED: False}
    head = config.target[0]
    codes: int | None = getattr(head, "num_codes", None)
    return their_answers(head) if codes is None else {"vocab_size": codes}


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


def body_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of the body alone."""
    encoder = transformer_of(config)
    pooler = linear("pooler.layernorm", "targets.vector.norm") if config.target else ()
    rows = expand((*_body_table(config, encoder), *pooler), encoder.num_layers)
    return [
        replace(row, theirs=tuple(name.removeprefix("beit.") for name in row.theirs))
        for row in rows
    ]


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter."""
    encoder, head = transformer_of(config), config.target[0]
    name = f"targets.{head.name}"
    rows: Table = (
        *linear("beit.pooler.layernorm", f"{name}.norm"),
        *linear("classifier", f"{name}.output"),
    )
    rows = MIM if isinstance(head, MimConfig) else rows
    return expand((*_body_table(config, encoder), *rows), encoder.num_layers)


def _architecture(name: str, model_config: Callable[[Values], ModelConfig]) -> Architecture:
    return Architecture(
        name,
        "beit",
        model_config,
        their_config,
        table,
        repeated=(Repeat("*.relative_position_index"),),
        processor="image",
    )


ARCHITECTURES = (
    _architecture("BeitForMaskedImageModeling", mim_config),
    _architecture("BeitForImageClassification", cls_config),
    replace(
        _architecture("BeitModel", body_config),
        table=body_table,
        arguments=bert.without_pooler,
        front="beit",
    ),
)
