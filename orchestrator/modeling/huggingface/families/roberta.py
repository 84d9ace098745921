"""RoBERTa, XLM-R, CamemBERT: BERT with positions that count real tokens from ``pad_token_id + 1``.

transformers drops out before the hidden layer of the classification head as well; here only after
it, as in BERT. Outputs are the same, training differs by that one dropout.
"""

from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Table,
    linear,
    same,
)
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.values import JsonObject, Values, span_of
from orchestrator.modeling.targets.token_configs import MlmConfig

MLM: Table = (
    *linear("lm_head.dense", "targets.mlm.transform_layer.dense"),
    *linear("lm_head.layer_norm", "targets.mlm.transform_layer.norm"),
    same("lm_head.bias", "targets.mlm.output.bias"),
)
REPEATED = (
    Repeat("lm_head.decoder.weight", of="roberta.embeddings.word_embeddings.weight"),
    Repeat("lm_head.decoder.bias", of="lm_head.bias"),
    Repeat("*embeddings.position_ids"),
)


def model_config(heads: Sequence[bert.Head], theirs: Values) -> ModelConfig:
    """Return our model config for a ``RobertaConfig``."""
    offset = theirs.integer("pad_token_id") + 1
    return bert.model_config(
        heads,
        theirs,
        positions=PosConfig(offset=offset, pad_aware=True),
        max_positions=theirs.integer("max_position_embeddings") - offset,
    )


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the masked language modeling head, whose activation is always GELU."""
    theirs.require(tie_word_embeddings=True)
    return MlmConfig(activation="gelu", norm_eps=theirs.number("layer_norm_eps"))


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``RobertaConfig``."""
    rows = config.max_position_embeddings + config.pad_token_id + 1
    return bert.their_config(config) | {"max_position_embeddings": rows}


def _architectures(prefix: str, model_type: str) -> Sequence[Architecture]:
    heads: dict[str, tuple[bert.Head, Callable[[ModelConfig], Table]]] = {
        "ForMaskedLM": (mlm_config, partial(bert.table, "roberta.", MLM)),
        "ForSequenceClassification": (
            bert.cls_config,
            partial(bert.cls_table, "roberta.", "classifier.dense", "classifier.out_proj"),
        ),
        "ForTokenClassification": (
            bert.tags_config,
            partial(bert.table, "roberta.", bert.TAGS),
        ),
        "ForQuestionAnswering": (span_of, partial(bert.table, "roberta.", bert.SPAN)),
        "ForMultipleChoice": (
            bert.choice_config,
            partial(bert.table, "roberta.", bert.choice_rows("roberta.pooler.dense", "classifier")),
        ),
        "Model": (bert.vector_config, bert.body_table),
    }
    return [
        Architecture(
            prefix + name,
            model_type,
            partial(model_config, [head]),
            their_config,
            rows,
            REPEATED,
            arguments=bert.without_pooler if name == "Model" else bert.no_arguments,
            front="roberta" if name == "Model" else "",
        )
        for name, (head, rows) in heads.items()
    ]


ARCHITECTURES = (
    *_architectures("Roberta", "roberta"),
    *_architectures("XLMRoberta", "xlm-roberta"),
    *_architectures("Camembert", "camembert"),
)
