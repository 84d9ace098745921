"""CLIP: transformers' ``CLIPModel`` as two streams, text and image, and clr.

Radford et al. 2021. The text vector is that of the end token: the last real position, since nothing
follows it but padding. Give ``attention_mask`` for padded texts. SigLIP shares the two towers: text
is the first stream, images are the second.
"""

from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import InputError
from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.config import ModelConfig, StreamSizes
from orchestrator.modeling.embeddings.configs import ImageConfig, PatchConfig, PosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import DualEmbeddingConfig, EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import DualEncoderConfig, TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    LAYER,
    Architecture,
    Repeat,
    Row,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.families.vit import image_part, their_image
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    their_activation,
)
from orchestrator.modeling.targets.stream_configs import ClrConfig, StreamHeadConfig

LARGEST_TOKEN = 2
"""An ``eos_token_id`` of 2 says there: the end is the largest token id of a text."""

TABLE: Table = (
    same("vision_model.embeddings.class_embedding", "embedding.dual.second.patch.class_token"),
    weight("vision_model.embeddings.patch_embedding", "embedding.dual.second.patch.projection"),
    *linear("vision_model.pre_layrnorm", "embedding.dual.second.norm"),
    weight("text_projection", "targets.clr.first.projection"),
    weight("visual_projection", "targets.clr.second.projection"),
    same("logit_scale", "targets.clr.temperature.scale", leading_axes=-1),
)

DEFAULT_NORM_EPS = 1e-5
"""Value in our config of an embedding without a norm."""

_LAYER = f"encoder.layers.{LAYER}"

TEXT: Table = (
    weight("text_model.embeddings.token_embedding", "embedding.dual.first.word"),
    weight("text_model.embeddings.position_embedding", "embedding.dual.first.pos"),
    *linear("text_model.final_layer_norm", "encoder.first.norm"),
)
IMAGES: Table = (
    weight("vision_model.embeddings.position_embedding", "embedding.dual.second.pos"),
    *linear("vision_model.post_layernorm", "encoder.second.norm"),
)


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``CLIPConfig``."""
    text, vision = theirs.section("text_config"), theirs.section("vision_config")
    require_end(text, "text_config.")
    form = Form(
        causal=True,
        class_token=True,
        patch_bias=False,
        image_norm_eps=vision.number("layer_norm_eps"),
        initializer_range=text.number("initializer_range"),
        initialization="clip",
    )
    head = ClrConfig(
        first=StreamHeadConfig(pooling="last"),
        second=StreamHeadConfig(pooling="first"),
        projection_size=theirs.integer("projection_dim"),
        logit_scale=theirs.number("logit_scale_init_value"),
    )
    return towers_config(theirs, form, head)


def require_end(text: Values, path: str = "") -> None:
    """Refuse an end token within the vocabulary.

    Raises:
        InputError: The end token is not the last one of the vocabulary.
    """
    last, end = text.integer("vocab_size") - 1, text.optional_integer("eos_token_id")
    if end not in (LARGEST_TOKEN, last):
        raise InputError(
            f"{path}eos_token_id: {end!r} is not supported; only the last "
            f"token of the vocabulary ({last}) is, or 2, which means the same there."
        )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``CLIPConfig``."""
    head, (text, vision) = contrast_of(config), their_configs(config)
    shared: JsonObject = {
        "initializer_range": config.initializer_range,
        "projection_dim": head.projection_size,
    }
    return {
        "text_config": text | {"eos_token_id": config.vocab_size - 1} | shared,
        "vision_config": vision | shared,
        "projection_dim": head.projection_size,
        "logit_scale_init_value": head.first_scale,
    }


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``CLIPModel``."""
    return [*TABLE, *towers_table(config)]


def blocks(theirs: str, ours: str, num_layers: int) -> list[Row]:
    """Return the rows of the blocks of one tower."""
    names = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.out_proj": "attention.output",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "mlp.fc1": "feed_forward.up",
        "mlp.fc2": "feed_forward.down",
    }
    rows = [
        row
        for name, own in names.items()
        for row in linear(f"{theirs}.{_LAYER}.{name}", f"encoder.{ours}.layers.{LAYER}.{own}")
    ]
    return expand(rows, num_layers)


def towers_table(config: ModelConfig) -> list[Row]:
    """Return what both families have: both towers but for the projection of patches."""
    text, images = encoders_of(config)
    return [
        *TEXT,
        *IMAGES,
        *blocks("text_model", "first", text.num_layers),
        *blocks("vision_model", "second", images.num_layers),
    ]


def tower(theirs: Values, *, mask: Literal["causal", "bidirectional"]) -> TransformerConfig:
    """Return the encoder of one tower."""
    return TransformerConfig(
        num_layers=theirs.integer("num_hidden_layers"),
        num_heads=theirs.integer("num_attention_heads"),
        intermediate_size=theirs.integer("intermediate_size"),
        norm_position="pre",
        norm_eps=theirs.number("layer_norm_eps"),
        activation=theirs.activation("hidden_act"),
        mask=mask,
        dropout=0.0,
        attention_dropout=theirs.number("attention_dropout"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Differences between CLIP and SigLIP.

    Attributes:
        causal: A token of the text reads earlier ones only.
        class_token: The image has a class token.
        patch_bias: The projection of patches has a bias.
        image_norm_eps: Epsilon of the norm on the embedded image; None: no norm.
        initializer_range: Standard deviation of new weights, which SigLIP's config does not hold.
        initialization: Which new weights have another standard deviation.
    """

    causal: bool
    class_token: bool
    patch_bias: bool
    image_norm_eps: float | None = None
    initializer_range: float = 0.02
    initialization: Literal["normal", "clip"] = "normal"


def towers_config(theirs: Values, form: Form, head: ClrConfig) -> ModelConfig:
    """Return our model config for a ``CLIPConfig`` or ``SiglipConfig``."""
    text, vision = theirs.section("text_config"), theirs.section("vision_config")
    patch = image_part(PatchConfig, vision, bias=form.patch_bias, class_token=form.class_token)
    words = EmbeddingStackConfig(parts=(WordConfig(), PosConfig()), layernorm=False, dropout=0.0)
    images = EmbeddingStackConfig(
        parts=(patch, PosConfig()),
        layernorm=form.image_norm_eps is not None,
        norm_eps=form.image_norm_eps or DEFAULT_NORM_EPS,
        dropout=0.0,
    )
    dual = DualEmbeddingConfig(first=words, second=images)
    return ModelConfig(
        hidden_size=text.integer("hidden_size"),
        vocab_size=text.integer("vocab_size"),
        max_position_embeddings=text.integer("max_position_embeddings"),
        pad_token_id=text.integer("pad_token_id", 0),
        second=StreamSizes(
            hidden_size=vision.integer("hidden_size"),
            max_position_embeddings=patch.positions(),
        ),
        initializer_range=form.initializer_range,
        initialization=form.initialization,
        embedding=EmbeddingStackConfig(parts=(dual,), layernorm=False, dropout=0.0),
        encoder=DualEncoderConfig(
            first=tower(text, mask="causal" if form.causal else "bidirectional"),
            second=tower(vision, mask="bidirectional"),
        ),
        target=(head,),
    )


def encoders_of(config: ModelConfig) -> tuple[TransformerConfig, TransformerConfig]:
    """Return the encoders of text and images.

    Raises:
        InputError: The model is not of this form.
    """
    encoder = config.encoder
    if isinstance(encoder, DualEncoderConfig):
        both = (encoder.first, encoder.of_second)
        if isinstance(both[0], TransformerConfig) and isinstance(both[1], TransformerConfig):
            return both[0], both[1]
    raise InputError("only a model of two transformers has this form")


def contrast_of(config: ModelConfig) -> ClrConfig:
    """Return the contrastive target.

    Raises:
        InputError: The model has none.
    """
    for target in config.target:
        if isinstance(target, ClrConfig):
            return target
    raise InputError("only a model with a contrastive target has this form")


def their_configs(config: ModelConfig) -> tuple[JsonObject, JsonObject]:
    """Return ``text_config`` and ``vision_config``."""
    text, images = encoders_of(config)
    words: JsonObject = {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
    }
    width = config.dimensions.of_second.hidden_size
    vision = their_tower(images, width) | their_image(image_of(config))
    return their_tower(text, config.hidden_size) | words, vision


def image_of(config: ModelConfig) -> EmbeddingConfig | None:
    """Return the image part of the second stream, if there is one."""
    dual = config.embedding.part("dual")
    if not isinstance(dual, DualEmbeddingConfig):
        return None
    found = [part for part in dual.of_second.parts if isinstance(part, ImageConfig)]
    return found[0] if found else None


def their_tower(encoder: TransformerConfig, width: int) -> JsonObject:
    """Return the options of one tower's encoder; ``width`` is hidden_size."""
    return {
        "hidden_size": width,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.intermediate_size or 4 * width,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "attention_dropout": encoder.attention_dropout,
    }


ARCHITECTURES = (
    Architecture(
        "CLIPModel",
        "clip",
        model_config,
        their_config,
        table,
        repeated=(Repeat("*.embeddings.position_ids"),),
        processor="image_text",
    ),
)
