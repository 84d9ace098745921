"""MPNet: transformers' ``MPNet*`` classes, BERT with T5's bias of distances in post-norm blocks.

Song et al. 2020. Positions count real tokens from ``pad_token_id + 1``, as in RoBERTa; there are no
segments. Their classes fix the padding id (1) and the number of buckets (32), whatever their config
says, so that other values are refused. transformers drops out before the hidden layer of the
classification head as well; here only after it. Outputs are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig, WordConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    expand,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.families import bert, roberta
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    span_of,
    transformer_of,
)
from orchestrator.modeling.layers.bias_options import T5BiasConfig
from orchestrator.modeling.targets.answer_configs import ChoiceConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.token_configs import TagsConfig

BUCKETS, MAX_DISTANCE = 32, 128
"""Their code reads no other values."""
PADDING = 1
"""Id of padding that their code counts positions by."""
_OURS = "encoder.layers.{layer}"


def body(prefix: str) -> Iterator[Row]:
    """Yield embedding and encoder, whose names start with ``prefix`` (``mpnet.``)."""
    embeddings, layer = f"{prefix}embeddings", f"{prefix}encoder.layer.{{layer}}"
    yield weight(f"{embeddings}.word_embeddings", "embedding.word")
    yield weight(f"{embeddings}.position_embeddings", "embedding.pos")
    yield from linear(f"{embeddings}.LayerNorm", "embedding.norm")
    yield weight(f"{prefix}encoder.relative_attention_bias", "encoder.position_bias")
    for theirs, ours in {"q": "query", "k": "key", "v": "value", "o": "output"}.items():
        yield from linear(f"{layer}.attention.attn.{theirs}", f"{_OURS}.attention.{ours}")
    yield from linear(f"{layer}.attention.LayerNorm", f"{_OURS}.norm1")
    yield from linear(f"{layer}.intermediate.dense", f"{_OURS}.feed_forward.up")
    yield from linear(f"{layer}.output.dense", f"{_OURS}.feed_forward.down")
    yield from linear(f"{layer}.output.LayerNorm", f"{_OURS}.norm2")


def table(prefix: str, heads: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and heads."""
    return expand((*body(prefix), *heads), transformer_of(config).num_layers)


def cls_table(config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head."""
    rows = bert.answers_rows("classifier.dense", "classifier.out_proj", config)
    return table("mpnet.", rows, config)


def body_table(config: ModelConfig) -> list[Row]:
    """Return the rows of the body alone, with its pooler if there is one."""
    return table("", bert.VECTOR if config.target else (), config)


def model_config(heads: Sequence[bert.Head], theirs: Values) -> ModelConfig:
    """Return our model config for an ``MPNetConfig``."""
    theirs.require(relative_attention_num_buckets=BUCKETS, pad_token_id=PADDING)
    eps, dropout = theirs.number("layer_norm_eps"), theirs.number("hidden_dropout_prob")
    offset = PADDING + 1
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings") - offset,
        pad_token_id=PADDING,
        initializer_range=theirs.number("initializer_range"),
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(), PosConfig(offset=offset, pad_aware=True)),
            norm_eps=eps,
            dropout=dropout,
        ),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=theirs.integer("num_attention_heads"),
            intermediate_size=theirs.integer("intermediate_size"),
            norm_eps=eps,
            activation=theirs.activation("hidden_act"),
            position_bias=T5BiasConfig(buckets=BUCKETS, max_distance=MAX_DISTANCE),
            dropout=dropout,
            attention_dropout=theirs.number("attention_probs_dropout_prob"),
        ),
        target=bert.targets_of(heads, theirs),
    )


def _dropout(theirs: Values) -> float:
    return theirs.number("hidden_dropout_prob")


def _cls(theirs: Values) -> TargetConfig:
    return answers_of(theirs, _dropout(theirs))


def _tags(theirs: Values) -> TargetConfig:
    return TagsConfig(num_labels=len(theirs.labels()), dropout=_dropout(theirs))


def _choice(theirs: Values) -> TargetConfig:
    return ChoiceConfig(dropout=_dropout(theirs))


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of an ``MPNetConfig``.

    Raises:
        InputError: The encoder has another form. Other models must not take its padding id.
    """
    encoder = transformer_of(config)
    plain = encoder.mask == "bidirectional" and encoder.norm_position == "post"
    if not (plain and isinstance(encoder.position_bias, T5BiasConfig)):
        raise InputError("only post-norm blocks with a bias of type t5 have this form")
    values = bert.their_config(config)
    for name in ("type_vocab_size", "classifier_dropout"):
        values.pop(name, None)
    return values | {
        "max_position_embeddings": config.max_position_embeddings + config.pad_token_id + 1
    }


REPEATED = (
    Repeat("lm_head.decoder.weight", of="mpnet.embeddings.word_embeddings.weight"),
    Repeat("lm_head.decoder.bias", of="lm_head.bias"),
    Repeat("*embeddings.position_ids"),
)


def _architectures() -> Iterator[Architecture]:
    rows = partial(table, "mpnet.")
    choice = bert.choice_rows("mpnet.pooler.dense", "classifier")
    heads: dict[str, tuple[bert.Head, Callable[[ModelConfig], Table]]] = {
        "ForMaskedLM": (roberta.mlm_config, partial(rows, roberta.MLM)),
        "ForSequenceClassification": (_cls, cls_table),
        "ForTokenClassification": (_tags, partial(rows, bert.TAGS)),
        "ForQuestionAnswering": (span_of, partial(rows, bert.SPAN)),
        "ForMultipleChoice": (_choice, partial(rows, choice)),
        "Model": (bert.vector_config, body_table),
    }
    for name, (head, own_table) in heads.items():
        alone = name == "Model"
        yield Architecture(
            f"MPNet{name}",
            "mpnet",
            partial(model_config, [head]),
            their_config,
            own_table,
            REPEATED,
            pad_token_id=PADDING,
            arguments=bert.without_pooler if alone else bert.no_arguments,
            front="mpnet" if alone else "",
        )


ARCHITECTURES = tuple(_architectures())
