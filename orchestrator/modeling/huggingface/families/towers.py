"""What CLIP and SigLIP share: a text tower and an image tower, the first and second stream."""

from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import ImageConfig
from orchestrator.modeling.embeddings.stack_config import DualEmbeddingConfig
from orchestrator.modeling.encoders.configs import DualEncoderConfig, TransformerConfig
from orchestrator.modeling.huggingface.architecture import Values
from orchestrator.modeling.huggingface.families.vision import image_options, patches_of, their_image
from orchestrator.modeling.huggingface.keys import LAYER, Row, Table, expand, linear, weight
from orchestrator.modeling.huggingface.values import activation_of, their_activation
from orchestrator.modeling.targets.stream_configs import ClrConfig

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


def tower(theirs: Values, *, mask: str) -> dict[str, Any]:
    """Return the encoder of one tower."""
    return {
        "type": "transformer",
        "num_layers": theirs["num_hidden_layers"],
        "num_heads": theirs["num_attention_heads"],
        "intermediate_size": theirs["intermediate_size"],
        "norm_position": "pre",
        "norm_eps": theirs["layer_norm_eps"],
        "activation": activation_of(theirs, "hidden_act"),
        "mask": mask,
        "dropout": 0.0,
        "attention_dropout": theirs["attention_dropout"],
    }


def model_config(theirs: Values, images: dict[str, Any], *, causal: bool) -> dict[str, Any]:
    """Return sizes, embedding and encoder.

    Args:
        theirs: A ``CLIPConfig`` or ``SiglipConfig``.
        images: The image stack, but for the sizes of the image.
        causal: Whether a token of the text reads earlier ones only.
    """
    text, vision = theirs["text_config"], theirs["vision_config"]
    patch = {"type": "patch", **image_options(vision), **images["patch"]}
    positions = patches_of(vision) + patch["class_token"]
    plain = {"layernorm": False, "dropout": 0.0}
    stacks = {
        "first": {"parts": ["word", "pos"], **plain},
        "second": plain | {"parts": [patch, "pos"], **images["stack"]},
    }
    return {
        "hidden_size": text["hidden_size"],
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["max_position_embeddings"],
        "pad_token_id": text["pad_token_id"] or 0,
        "second": {
            "hidden_size": vision["hidden_size"],
            "max_position_embeddings": positions,
        },
        "embedding": {"parts": [{"type": "dual", **stacks}], **plain},
        "encoder": {
            "type": "dual",
            "first": tower(text, mask="causal" if causal else "bidirectional"),
            "second": tower(vision, mask="bidirectional"),
        },
    }


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


def their_configs(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return ``text_config`` and ``vision_config``."""
    text, images = encoders_of(config)
    sizes = config.dimensions
    words = {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
    }
    return {
        "text_config": _their_tower(text, config.hidden_size) | words,
        "vision_config": _their_tower(images, sizes.of_second.hidden_size)
        | their_image(image_part(config)),
    }


def image_part(config: ModelConfig) -> EmbeddingConfig | None:
    """Return the image part of the second stream, if there is one."""
    dual = config.embedding.part("dual")
    if not isinstance(dual, DualEmbeddingConfig):
        return None
    found = [part for part in dual.of_second.parts if isinstance(part, ImageConfig)]
    return found[0] if found else None


def _their_tower(encoder: TransformerConfig, width: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.intermediate_size or 4 * width,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "attention_dropout": encoder.attention_dropout,
    }
