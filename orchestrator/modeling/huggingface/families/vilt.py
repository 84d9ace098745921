"""ViLT: transformers' ``Vilt*`` classes as word_patch, pre-norm encoder, and heads.

Kim et al. 2021. Images have the configured size: the original resizes its position table with the
image (bilinear, corners aligned) and shuffles the patches, which changes no text vector.
"""

from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PatchConfig, PosConfig, SegConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig, WordPatchConfig
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
from orchestrator.modeling.huggingface.families.vit import (
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
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    transformer_of,
)
from orchestrator.modeling.targets.configs import ItmConfig, TargetConfig, VectorConfig
from orchestrator.modeling.targets.token_configs import MlmConfig

_PART = "embedding.word_patch"
_WORDS = "vilt.embeddings.text_embeddings"

BODY: Table = (
    weight(f"{_WORDS}.word_embeddings", f"{_PART}.text.word"),
    weight(f"{_WORDS}.position_embeddings", f"{_PART}.text.pos"),
    weight(f"{_WORDS}.token_type_embeddings", f"{_PART}.text.seg"),
    *linear(f"{_WORDS}.LayerNorm", f"{_PART}.text.norm"),
    *patches_table("vilt.", f"{_PART}.image.patch"),
    *positions_row("vilt.", f"{_PART}.image.pos"),
    same("vilt.embeddings.token_type_embeddings.weight", f"{_PART}.modality"),
    *blocks_table("vilt."),
    *key_rows("vilt."),
    *linear("vilt.layernorm", "encoder.norm"),
)
MLM: Table = (
    *linear("mlm_score.transform.dense", "targets.mlm.transform_layer.dense"),
    *linear("mlm_score.transform.LayerNorm", "targets.mlm.transform_layer.norm"),
    same("mlm_score.decoder.bias", "targets.mlm.output.bias"),
    *linear("vilt.pooler.dense", "targets.vector.dense"),
)
RETRIEVAL: Table = (
    *linear("vilt.pooler.dense", "targets.itm.dense"),
    *linear("rank_output", "targets.itm.output"),
)
REPEATED = (
    Repeat("mlm_score.decoder.weight", of="vilt.embeddings.text_embeddings.word_embeddings.weight"),
    Repeat("vilt.embeddings.text_embeddings.position_ids"),
)


def model_config(heads: Sequence[Callable[[Values], TargetConfig]], theirs: Values) -> ModelConfig:
    """Return our model config for a ``ViltConfig``."""
    theirs.require(qkv_bias=True, max_image_length=-1, modality_type_vocab_size=2)
    dropout = theirs.number("hidden_dropout_prob")
    text = EmbeddingStackConfig(
        parts=(WordConfig(), PosConfig(), SegConfig()),
        norm_eps=theirs.number("layer_norm_eps"),
        dropout=dropout,
    )
    image = EmbeddingStackConfig(
        parts=(image_part(PatchConfig, theirs), PosConfig()),
        layernorm=False,
        dropout=dropout,
        max_position_embeddings=patches_of(theirs) + 1,
    )
    part = WordPatchConfig(text=text, image=image)
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        type_vocab_size=theirs.integer("type_vocab_size"),
        pad_token_id=theirs.integer("pad_token_id", 0),
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(parts=(part,), layernorm=False, dropout=0.0),
        encoder=encoder_options(theirs),
        target=tuple(head(theirs) for head in heads),
    )


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the masked language modeling head."""
    eps = theirs.number("layer_norm_eps")
    return MlmConfig(activation=theirs.activation("hidden_act"), norm_eps=eps)


def pooler(theirs: Values) -> VectorConfig:
    """Return the pooler, which travels along with the masked language modeling head."""
    del theirs
    return VectorConfig(pooling="first", hidden=True)


def retrieval_config(theirs: Values) -> ItmConfig:
    """Return the head that scores a text and an image."""
    del theirs
    return ItmConfig(rank=True)


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``ViltConfig``.

    Raises:
        InputError: The embedding is another one.
    """
    part = config.embedding.part("word_patch")
    if not isinstance(part, WordPatchConfig):
        raise InputError("only a model of text and image in one sequence has this form")
    return {
        **their_encoder(transformer_of(config), config.hidden_size),
        **their_image(part.image.part("patch")),
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "pad_token_id": config.pad_token_id,
        "initializer_range": config.initializer_range,
    }


def table(head: Table, config: ModelConfig) -> list[Row]:
    """Return every parameter."""
    return expand((*BODY, *head), transformer_of(config).num_layers)


def _architecture(
    name: str, heads: Sequence[Callable[[Values], TargetConfig]], rows: Table
) -> Architecture:
    return Architecture(
        name,
        "vilt",
        partial(model_config, heads),
        their_config,
        partial(table, rows),
        REPEATED,
        processor="image_text",
    )


ARCHITECTURES = (
    _architecture("ViltForMaskedLM", [mlm_config, pooler], MLM),
    _architecture("ViltForImageAndTextRetrieval", [retrieval_config], RETRIEVAL),
)
