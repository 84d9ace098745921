"""DINOv2: transformers' ``Dinov2*`` and ``Dinov2WithRegisters*``, patches and scaled blocks.

Oquab et al. 2023: a learned factor on each sub-layer, SwiGLU in the giant model, and a classifier
of the class token beside the mean of the patches. Darcet et al. 2024: registers after the class
token, which have no position. Positions are interpolated to the size of the image, as there, with
antialiasing in the models with registers.
"""

from collections.abc import Callable
from functools import partial

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
    Row,
    expand,
    linear,
    same,
)
from orchestrator.modeling.huggingface.families.vit import (
    OURS,
    patches_table,
    positions_row,
    their_image,
)
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    their_activation,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.targets.configs import TargetConfig, VectorConfig

Head = Callable[[Values], TargetConfig]
"""Their config → the target."""

GATED_SHARE, GATED_MULTIPLE = 2 / 3, 8
"""SwiGLU has this share of the usual inner width, rounded up to a multiple."""


def inner_width(width: int, ratio: int, *, gated: bool) -> int:
    """Return the width inside the feed-forward."""
    inner = int(width * ratio)
    if not gated:
        return inner
    return (int(inner * GATED_SHARE) + GATED_MULTIPLE - 1) // GATED_MULTIPLE * GATED_MULTIPLE


def vector(theirs: Values) -> VectorConfig:
    """Return the class token of a body without a head."""
    del theirs
    return VectorConfig(pooling="first")


def classifier(theirs: Values) -> TargetConfig:
    """Return a linear layer on the class token beside the mean of the patches."""
    return answers_of(theirs, 0.0, None, pooling="first_rest")


def model_config(head: Head, registers: bool, theirs: Values) -> ModelConfig:
    """Return our model config for a ``Dinov2Config`` or ``Dinov2WithRegistersConfig``."""
    masks = registers or theirs.flag("use_mask_token", True)
    sizes = {
        "image_size": theirs.square("image_size"),
        "patch_size": theirs.square("patch_size"),
        "channels": theirs.integer("num_channels"),
        "interpolate": True,
        "antialias": registers,
    }
    kind = MaskedPatchConfig if masks else PatchConfig
    image: ImageConfig = kind.model_validate(sizes)
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        max_position_embeddings=image.positions(),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(image, PosConfig()),
            layernorm=False,
            dropout=theirs.number("hidden_dropout_prob"),
            registers=theirs.integer("num_register_tokens") if registers else 0,
        ),
        encoder=_encoder(theirs),
        target=(head(theirs),),
    )


def _encoder(theirs: Values) -> TransformerConfig:
    theirs.require(drop_path_rate=0.0)  # one rate for all blocks there; here it grows
    gated = theirs.flag("use_swiglu_ffn")
    width, ratio = theirs.integer("hidden_size"), theirs.integer("mlp_ratio")
    return TransformerConfig(
        num_layers=theirs.integer("num_hidden_layers"),
        num_heads=theirs.integer("num_attention_heads"),
        intermediate_size=inner_width(width, ratio, gated=gated),
        norm_position="pre",
        norm_eps=theirs.number("layer_norm_eps"),
        activation="silu" if gated else theirs.activation("hidden_act"),
        feed_forward="gated" if gated else "dense",
        attention_bias=None if theirs.flag("qkv_bias") else ("output",),
        layer_scale=theirs.number("layerscale_value"),
        dropout=0.0,
        attention_dropout=theirs.number("attention_probs_dropout_prob"),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Dinov2Config`` or ``Dinov2WithRegistersConfig``."""
    encoder, width, image = transformer_of(config), config.hidden_size, config.embedding.parts[0]
    gated = encoder.feed_forward == "gated"
    inner = encoder.size_of_feed_forward(config.dimensions)
    values: JsonObject = {
        **their_image(image),
        "hidden_size": width,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "mlp_ratio": round(inner / GATED_SHARE / width) if gated else inner // width,
        "use_swiglu_ffn": gated,
        "layer_norm_eps": encoder.norm_eps,
        "qkv_bias": encoder.has_bias("query"),
        "layerscale_value": encoder.layer_scale or 1.0,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "hidden_dropout_prob": config.embedding.dropout,
        "initializer_range": config.initializer_range,
    }
    if not gated:
        values["hidden_act"] = their_activation(encoder.activation)
    if config.embedding.registers:
        values["num_register_tokens"] = config.embedding.registers
    else:
        values["use_mask_token"] = image.type_name() == "masked_patch"
    head = config.target[0]
    return values | ({} if isinstance(head, VectorConfig) else their_answers(head))


def table(prefix: str, config: ModelConfig) -> list[Row]:
    """Return every parameter; names of the body start with ``prefix`` (``dinov2.``)."""
    encoder, image = transformer_of(config), config.embedding.parts[0]
    part = f"embedding.{image.type_name()}"
    rows = [*patches_table(prefix, part), *positions_row(prefix, "embedding.pos")]
    if image.type_name() == "masked_patch":
        rows.append(same(f"{prefix}embeddings.mask_token", f"{part}.mask_token", leading_axes=1))
    if config.embedding.registers:
        tokens = same(f"{prefix}embeddings.register_tokens", "embedding.registers", leading_axes=1)
        rows.append(tokens)
    rows += _blocks(f"{prefix}encoder.layer.{{layer}}", encoder)
    rows += linear(f"{prefix}layernorm", "encoder.norm")
    if prefix:
        rows += linear("classifier", f"targets.{config.target[0].name}.output")
    return expand(rows, encoder.num_layers)


def _blocks(layer: str, encoder: TransformerConfig) -> list[Row]:
    """Return the rows of the blocks."""
    rows = [
        *linear(f"{layer}.attention.output.dense", f"{OURS}.attention.output"),
        *linear(f"{layer}.norm1", f"{OURS}.norm1"),
        *linear(f"{layer}.norm2", f"{OURS}.norm2"),
        same(f"{layer}.layer_scale1.lambda1", f"{OURS}.scale1.weight"),
        same(f"{layer}.layer_scale2.lambda1", f"{OURS}.scale2.weight"),
    ]
    for name in ("query", "key", "value"):
        both = linear(f"{layer}.attention.attention.{name}", f"{OURS}.attention.{name}")
        rows += both if encoder.has_bias("query") else both[:1]
    inside = f"{OURS}.feed_forward"
    if encoder.feed_forward == "gated":
        rows += linear(f"{layer}.mlp.weights_in", f"{inside}.gate", f"{inside}.up")
        rows += linear(f"{layer}.mlp.weights_out", f"{inside}.down")
    else:
        rows += linear(f"{layer}.mlp.fc1", f"{inside}.up")
        rows += linear(f"{layer}.mlp.fc2", f"{inside}.down")
    return rows


def _architectures(name: str, model_type: str, *, registers: bool) -> list[Architecture]:
    """Return the body and the classifier of a family."""
    classes: dict[str, tuple[Head, str]] = {
        "Model": (vector, ""),
        "ForImageClassification": (classifier, f"{model_type}."),
    }
    return [
        Architecture(
            name + ending,
            model_type,
            partial(model_config, head, registers),
            _refusing(registers),
            partial(table, prefix),
            processor="image",
            front="" if prefix else model_type,
        )
        for ending, (head, prefix) in classes.items()
    ]


def _refusing(registers: bool) -> Callable[[ModelConfig], JsonObject]:
    """Return ``their_config`` for models with registers, or without."""

    def values(config: ModelConfig) -> JsonObject:
        if bool(config.embedding.registers) != registers:
            raise InputError("registers: their other class has this form")
        return their_config(config)

    return values


ARCHITECTURES = (
    *_architectures("Dinov2", "dinov2", registers=False),
    *_architectures("Dinov2WithRegisters", "dinov2_with_registers", registers=True),
)
