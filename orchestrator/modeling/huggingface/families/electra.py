"""ELECTRA: BERT with narrow embeddings; a discriminator with rtd, and a generator with mlm."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.keys import Row, Table, linear, same
from orchestrator.modeling.huggingface.values import activation_of

RTD: Table = (
    *linear("discriminator_predictions.dense", "targets.rtd.dense"),
    *linear("discriminator_predictions.dense_prediction", "targets.rtd.output"),
)
MLM: Table = (
    *linear("generator_predictions.dense", "targets.mlm.transform_layer.dense"),
    *linear("generator_predictions.LayerNorm", "targets.mlm.transform_layer.norm"),
    same("generator_lm_head.bias", "targets.mlm.output.bias"),
)
REPEATED = ("generator_lm_head.weight", "*embeddings.position_ids")


def model_config(heads: Sequence[bert.Head], theirs: Values) -> dict[str, Any]:
    """Return our model config for an ``ElectraConfig``."""
    ours = bert.model_config(heads, theirs)
    size = theirs["embedding_size"]
    narrow = {"size": None if size == theirs["hidden_size"] else size}
    return ours | {"embedding": ours["embedding"] | narrow}


def mlm_config(theirs: Values) -> dict[str, Any]:
    """Return the generator's head, whose activation is always GELU."""
    return bert.mlm_config(theirs) | {"activation": "gelu"}


def rtd_config(theirs: Values) -> dict[str, Any]:
    """Return the discriminator's head."""
    return {"type": "rtd", "activation": activation_of(theirs, "hidden_act")}


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Return the values of an ``ElectraConfig``."""
    return bert.their_config(config) | {
        "embedding_size": config.embedding.size or config.hidden_size
    }


def table(prefix: str, head: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and head."""
    project = linear(f"{prefix}embeddings_project", "embedding.projection")
    narrow = () if config.embedding.size is None else project
    return bert.table(prefix, (*narrow, *head), config)


def _architecture(
    name: str, heads: Sequence[bert.Head], rows: Table, prefix: str = "electra."
) -> Architecture:
    own_table = partial(table, prefix, rows)
    return Architecture(
        name, "electra", partial(model_config, heads), their_config, own_table, REPEATED
    )


ARCHITECTURES = (
    _architecture("ElectraForPreTraining", [rtd_config], RTD),
    _architecture("ElectraForMaskedLM", [mlm_config], MLM),
    _architecture("ElectraForTokenClassification", [bert.tags_config], bert.TAGS),
    _architecture("ElectraModel", [], (), prefix=""),
)
