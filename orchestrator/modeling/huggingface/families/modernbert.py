"""ModernBERT and mmBERT: pre-norm gated encoder with rotary positions and alternating windows.

Warner et al. 2024, section 2.1 and appendix A. Blocks with a window read ``local_attention // 2``
positions on each side, which is our window less one, and turn by a base of their own. The first
block has no norm before its attention, since the embedding ends with one. Query, key and value are
one tensor in their files (``Wqkv``), gate and value of the feed-forward too (``Wi``).

Their classifier reads position 0 where ours reads the first real one (padding on the left).
Deviations that only training sees: transformers drops out after the output layer of attention too,
at the rate of ``attention_dropout``; new weights are drawn from a truncated normal distribution.
"""

from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import WordConfig
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
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    span_of,
    their_activation,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.layers.block_options import Projection
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SpanConfig
from orchestrator.modeling.targets.configs import (
    Pooling,
    SequenceHeadConfig,
    TargetConfig,
    TransformConfig,
)
from orchestrator.modeling.targets.token_configs import MlmConfig, TagsConfig

Head = Callable[[Values], TargetConfig]
"""Their config → the options of one target."""

POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean"}
"""Their ``classifier_pooling`` → ours."""
FULL, SLIDING = "full_attention", "sliding_attention"
_OURS = "encoder.layers.{layer}"
_INPUTS: tuple[Projection, ...] = ("query", "key", "value")
_ALL: tuple[Projection, ...] = (*_INPUTS, "output")

REPEATED = (Repeat("decoder.weight", of="model.embeddings.tok_embeddings.weight"),)


def model_config(heads: Sequence[Head], theirs: Values) -> ModelConfig:
    """Return our model config for a ``ModernBertConfig``.

    Raises:
        InputError: A value has no counterpart here.
    """
    eps, norm_bias = theirs.number("norm_eps"), theirs.flag("norm_bias")
    attention, feed_forward = theirs.flag("attention_bias"), theirs.flag("mlp_bias")
    kinds = [theirs_kind == SLIDING for theirs_kind in layer_types(theirs)]
    local = tuple(block for block, near in enumerate(kinds) if near)
    bases = theirs.section("rope_parameters")
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("initializer_range"),
        initialization="gpt2",
        embedding=EmbeddingStackConfig(
            parts=(WordConfig(),),
            norm_eps=eps,
            norm_bias=norm_bias,
            dropout=theirs.number("embedding_dropout"),
        ),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=theirs.integer("num_attention_heads"),
            intermediate_size=theirs.integer("intermediate_size"),
            norm_position="pre",
            norm_eps=eps,
            norm_bias=norm_bias,
            first_norm=False,
            attention="unpadded",
            activation=theirs.activation("hidden_activation"),
            feed_forward="gated",
            bias=feed_forward,
            attention_bias=None if attention == feed_forward else _ALL if attention else (),
            rotary=llama.rotary_config(bases.section(FULL)),
            window=_window(theirs) if local else None,
            window_layers=local or None,
            window_rotary=llama.rotary_config(bases.section(SLIDING)) if local else None,
            dropout=0.0,
            activation_dropout=theirs.number("mlp_dropout"),
            attention_dropout=theirs.number("attention_dropout"),
        ),
        target=tuple(head(theirs) for head in heads),
    )


def layer_types(theirs: Values) -> list[str]:
    """Return the kind of each block.

    Raises:
        InputError: A kind is unknown, or there are more or fewer kinds than blocks.
    """
    types, blocks = [*theirs.texts("layer_types")], theirs.integer("num_hidden_layers")
    if len(types) != blocks or not {FULL, SLIDING} >= {*types}:
        raise InputError(
            f"layer_types: {types} is not supported; give {FULL} or {SLIDING} for each of the "
            f"{blocks} blocks."
        )
    return types


def _window(theirs: Values) -> int:
    """Return the window of the blocks that have one: a position itself and those on one side."""
    both_sides = theirs.integer("local_attention")
    if both_sides < 0:
        raise InputError(f"local_attention: {both_sides} is not supported; only 0 and more is.")
    return both_sides // 2 + 1


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the masked language modeling head: linear, activation, norm, word table."""
    return MlmConfig(
        tie=theirs.flag("tie_word_embeddings"),
        activation=theirs.activation("classifier_activation"),
        norm_eps=theirs.number("norm_eps"),
        norm_bias=theirs.flag("norm_bias"),
        transform_bias=theirs.flag("classifier_bias"),
        bias=theirs.flag("decoder_bias"),
    )


def transform_config(theirs: Values) -> TransformConfig:
    """Return what every head puts before its output layer: linear, activation, norm."""
    return TransformConfig(
        activation=theirs.activation("classifier_activation"),
        bias=theirs.flag("classifier_bias"),
        norm_eps=theirs.number("norm_eps"),
        norm_bias=theirs.flag("norm_bias"),
    )


def cls_config(theirs: Values) -> TargetConfig:
    """Return the classification head: a vector, its transform, dropout, linear."""
    return answers_of(
        theirs,
        theirs.number("classifier_dropout"),
        None,
        pooling=theirs.choice("classifier_pooling", POOLINGS),
        transform=transform_config(theirs),
    )


def choice_config(theirs: Values) -> ChoiceConfig:
    """Return the head that chooses: a vector, its transform, dropout, one output."""
    return ChoiceConfig(
        pooling=theirs.choice("classifier_pooling", POOLINGS),
        hidden=False,
        transform=transform_config(theirs),
        dropout=theirs.number("classifier_dropout"),
    )


def tags_config(theirs: Values) -> TagsConfig:
    """Return the token classification head: transform, dropout, linear."""
    return TagsConfig(
        num_labels=len(theirs.labels()),
        transform=transform_config(theirs),
        dropout=theirs.number("classifier_dropout"),
    )


def span_config(theirs: Values) -> SpanConfig:
    """Return the head that finds an answer: transform, dropout, two outputs."""
    plain = span_of(theirs, theirs.number("classifier_dropout"))
    return plain.model_copy(update={"transform": transform_config(theirs)})


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``ModernBertConfig``."""
    encoder = transformer_of(config)
    blocks = range(encoder.num_layers)
    near = [encoder.window_of(block) is not None for block in blocks]
    values: JsonObject = {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
        "initializer_range": config.initializer_range,
        "embedding_dropout": config.embedding.dropout,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "hidden_activation": their_activation(encoder.activation),
        "norm_eps": encoder.norm_eps,
        "norm_bias": encoder.norm_bias,
        "attention_bias": encoder.has_bias("query"),
        "mlp_bias": encoder.bias,
        "attention_dropout": encoder.attention_dropout,
        "mlp_dropout": encoder.activation_dropout,
        "layer_types": [SLIDING if each else FULL for each in near],
        "rope_parameters": {
            FULL: llama.their_rotary(encoder.rotary),
            SLIDING: llama.their_rotary(encoder.window_rotary or encoder.rotary),
        },
    }
    if encoder.window is not None:
        values["local_attention"] = 2 * (encoder.window - 1)
    for target in config.target:
        values |= _their_head(target)
    return values


def _their_head(target: TargetConfig) -> JsonObject:
    """Return the values that a head reads."""
    if isinstance(target, MlmConfig):
        return {
            "tie_word_embeddings": target.tie,
            "classifier_activation": their_activation(target.activation),
            "classifier_bias": target.transform_bias,
            "decoder_bias": target.bias,
        }
    values: JsonObject = {"classifier_dropout": getattr(target, "dropout", 0.0)}
    transform: TransformConfig | None = getattr(target, "transform", None)
    if transform is not None:
        values["classifier_activation"] = their_activation(transform.activation)
        values["classifier_bias"] = transform.bias
    if isinstance(target, SequenceHeadConfig | ChoiceConfig):
        values["classifier_pooling"] = "mean" if target.pooling == "mean" else "cls"
    return values | (their_answers(target) if hasattr(target, "num_labels") else {})


def body(prefix: str, config: ModelConfig) -> list[Row]:
    """Return the rows of embedding and encoder, whose names start with ``prefix``."""
    encoder = transformer_of(config)
    layer, embeddings = f"{prefix}layers.{{layer}}", f"{prefix}embeddings"
    inputs = [f"{_OURS}.attention.{name}" for name in _INPUTS]
    gated = [f"{_OURS}.feed_forward.{name}" for name in ("gate", "up")]
    rows = expand(
        (
            weight(f"{embeddings}.tok_embeddings", "embedding.word"),
            *layer_of(f"{embeddings}.norm", "embedding.norm", bias=encoder.norm_bias),
            *layer_of(f"{layer}.attn_norm", f"{_OURS}.norm1", bias=encoder.norm_bias),
            *layer_of(f"{layer}.attn.Wqkv", *inputs, bias=encoder.has_bias("query")),
            *layer_of(
                f"{layer}.attn.Wo", f"{_OURS}.attention.output", bias=encoder.has_bias("output")
            ),
            *layer_of(f"{layer}.mlp_norm", f"{_OURS}.norm2", bias=encoder.norm_bias),
            *layer_of(f"{layer}.mlp.Wi", *gated, bias=encoder.bias),
            *layer_of(f"{layer}.mlp.Wo", f"{_OURS}.feed_forward.down", bias=encoder.bias),
            *layer_of(f"{prefix}final_norm", "encoder.norm", bias=encoder.norm_bias),
        ),
        encoder.num_layers,
    )
    first_norm = f"{_OURS}.norm1.".replace("{layer}", "0")
    return [row for row in rows if not row.ours[0].startswith(first_norm)]


def layer_of(theirs: str, *ours: str, bias: bool) -> tuple[Row, ...]:
    """Return the rows of a linear layer or norm with or without a bias."""
    biases = (same(f"{theirs}.bias", *(f"{name}.bias" for name in ours)),) if bias else ()
    return (weight(theirs, *ours), *biases)


def mlm_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``ModernBertForMaskedLM``."""
    (head,) = config.target
    assert isinstance(head, MlmConfig)
    ours = "targets.mlm.transform_layer"
    rows = [
        *body("model.", config),
        *layer_of("head.dense", f"{ours}.dense", bias=head.transform_bias),
        *layer_of("head.norm", f"{ours}.norm", bias=head.norm_bias),
    ]
    if not head.tie:
        rows.append(weight("decoder", "targets.mlm.output"))
    if head.bias:
        rows.append(same("decoder.bias", "targets.mlm.output.bias"))
    return rows


def head_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of a class with a head of its own."""
    (head,) = config.target
    transform: TransformConfig | None = getattr(head, "transform", None)
    assert transform is not None
    ours = f"targets.{head.name}"
    return [
        *body("model.", config),
        *layer_of("head.dense", f"{ours}.transform.dense", bias=transform.bias),
        *layer_of("head.norm", f"{ours}.transform.norm", bias=transform.norm_bias),
        *linear("classifier", f"{ours}.output"),
    ]


def _architecture(
    name: str, heads: Sequence[Head], rows: Callable[[ModelConfig], Table]
) -> Architecture:
    return Architecture(
        name, "modernbert", partial(model_config, heads), their_config, rows, REPEATED
    )


ARCHITECTURES = (
    _architecture("ModernBertModel", [], partial(body, "")),
    _architecture("ModernBertForMaskedLM", [mlm_config], mlm_table),
    _architecture("ModernBertForSequenceClassification", [cls_config], head_table),
    _architecture("ModernBertForTokenClassification", [tags_config], head_table),
    _architecture("ModernBertForQuestionAnswering", [span_config], head_table),
    _architecture("ModernBertForMultipleChoice", [choice_config], head_table),
)
