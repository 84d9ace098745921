"""SigLIP: transformers' ``SiglipModel`` as two streams, text and image, and clr with sigmoid loss.

Zhai et al. 2023. The text vector is that of the last position. Texts there are padded to the full
length without a mask, so that padding is read like words: leave ``attention_mask`` out, as its own
processor does. With a mask, the vector is that of the last real position.
"""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    linear,
    same,
)
from orchestrator.modeling.huggingface.families.clip import (
    Form,
    contrast_of,
    their_configs,
    towers_config,
    towers_table,
)
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.targets.configs import AttentionPoolingConfig
from orchestrator.modeling.targets.stream_configs import ClrConfig, StreamHeadConfig

_HEAD = "vision_model.head"
POOL = "targets.clr.second.pool"
"""Module of the learned query that pools images."""

FUSED = {"gelu_new": "gelu_pytorch_tanh"}
"""Their two names of one function: SigLIP uses the one that is computed in one step."""

TABLE: Table = (
    *linear("vision_model.embeddings.patch_embedding", "embedding.dual.second.patch.projection"),
    *linear("text_model.head", "targets.clr.first.projection"),
    same(f"{_HEAD}.probe", f"{POOL}.query", leading_axes=2),
    same(
        f"{_HEAD}.attention.in_proj_weight",
        *(f"{POOL}.attention.{name}.weight" for name in ("query", "key", "value")),
    ),
    same(
        f"{_HEAD}.attention.in_proj_bias",
        *(f"{POOL}.attention.{name}.bias" for name in ("query", "key", "value")),
    ),
    *linear(f"{_HEAD}.attention.out_proj", f"{POOL}.attention.output"),
    *linear(f"{_HEAD}.layernorm", f"{POOL}.norm"),
    *linear(f"{_HEAD}.mlp.fc1", f"{POOL}.feed_forward.up"),
    *linear(f"{_HEAD}.mlp.fc2", f"{POOL}.feed_forward.down"),
    same("logit_scale", "targets.clr.temperature.scale"),
    same("logit_bias", "targets.clr.temperature.bias"),
)


def attention_of(vision: Values) -> AttentionPoolingConfig:
    """Return the learned query that pools images."""
    return AttentionPoolingConfig(
        num_heads=vision.integer("num_attention_heads"),
        intermediate_size=vision.integer("intermediate_size"),
        activation=vision.activation("hidden_act"),
        norm_eps=vision.number("layer_norm_eps"),
    )


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``SiglipConfig``."""
    text, vision = theirs.section("text_config"), theirs.section("vision_config")
    vision.require(vision_use_head=True)
    text.require(projection_size=vision.integer("hidden_size"))
    head = ClrConfig(
        loss="sigmoid",
        first=StreamHeadConfig(pooling="last", bias=True),
        second=StreamHeadConfig(pooling=attention_of(vision), projection=False),
        projection_size=text.integer("projection_size"),
    )
    form = Form(causal=False, class_token=False, patch_bias=True)
    return towers_config(theirs, form, head)


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``SiglipConfig``."""
    text, vision = their_configs(config)
    text["projection_size"] = contrast_of(config).projection_size
    for part in (text, vision):
        name = str(part["hidden_act"])
        part["hidden_act"] = FUSED.get(name, name)
    return {"text_config": text, "vision_config": vision}


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``SiglipModel``."""
    return [*TABLE, *towers_table(config)]


ARCHITECTURES = (
    Architecture(
        "SiglipModel",
        "siglip",
        model_config,
        their_config,
        table,
        repeated=(Repeat("*.embeddings.position_ids"),),
        processor="image_text",
    ),
)
