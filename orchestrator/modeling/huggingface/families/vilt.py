"""ViLT: transformers' ``Vilt*`` classes as word_patch, pre-norm encoder, and heads.

Kim et al. 2021. Images have the configured size: the original resizes its position table with the
image (bilinear, corners aligned) and shuffles the patches, which changes no text vector.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.stack_config import WordPatchConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families.vision import (
    blocks_table,
    encoder_options,
    image_options,
    key_rows,
    patches_of,
    patches_table,
    positions_row,
    their_encoder,
    their_image,
)
from orchestrator.modeling.huggingface.keys import Row, Table, expand, linear, same, weight
from orchestrator.modeling.huggingface.values import activation_of, require, transformer_of

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
REPEATED = ("mlm_score.decoder.weight", "vilt.embeddings.text_embeddings.position_ids")


def body_config(theirs: Values) -> dict[str, Any]:
    """Return embedding and encoder for a ``ViltConfig``."""
    require(theirs, qkv_bias=True, max_image_length=-1, modality_type_vocab_size=2)
    dropout = theirs["hidden_dropout_prob"]
    text = {
        "parts": ["word", "pos", "seg"],
        "norm_eps": theirs["layer_norm_eps"],
        "dropout": dropout,
    }
    image = {
        "parts": [{"type": "patch", **image_options(theirs)}, "pos"],
        "layernorm": False,
        "dropout": dropout,
        "max_position_embeddings": patches_of(theirs) + 1,
    }
    part = {"type": "word_patch", "text": text, "image": image}
    return {
        "hidden_size": theirs["hidden_size"],
        "vocab_size": theirs["vocab_size"],
        "max_position_embeddings": theirs["max_position_embeddings"],
        "type_vocab_size": theirs["type_vocab_size"],
        "pad_token_id": theirs["pad_token_id"] or 0,
        "initializer_range": theirs["initializer_range"],
        "embedding": {"parts": [part], "layernorm": False, "dropout": 0.0},
        "encoder": encoder_options(theirs),
    }


def mlm_config(theirs: Values) -> dict[str, Any]:
    """Return our config of ``ViltForMaskedLM``; its pooler is kept beside the head."""
    head = {
        "type": "mlm",
        "activation": activation_of(theirs, "hidden_act"),
        "norm_eps": theirs["layer_norm_eps"],
    }
    pooler = {"type": "vector", "pooling": "first", "hidden": True}
    return body_config(theirs) | {"target": [head, pooler]}


def retrieval_config(theirs: Values) -> dict[str, Any]:
    """Return our config of ``ViltForImageAndTextRetrieval``."""
    return body_config(theirs) | {"target": [{"type": "itm", "rank": True}]}


def their_config(config: ModelConfig) -> dict[str, Any]:
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
    name: str, model_config: Callable[[Values], dict[str, Any]], head: Table
) -> Architecture:
    return Architecture(
        name,
        "vilt",
        model_config,
        their_config,
        partial(table, head),
        REPEATED,
        processor="image_text",
    )


ARCHITECTURES = (
    _architecture("ViltForMaskedLM", mlm_config, MLM),
    _architecture("ViltForImageAndTextRetrieval", retrieval_config, RETRIEVAL),
)
