"""DeBERTa: transformers' ``Deberta*`` and ``DebertaV2*`` classes, the latter also of DeBERTa-v3.

He et al. 2021 (DeBERTa), He et al. 2023 (DeBERTa-v3): post-norm blocks with disentangled attention
(`layers.disentangled`). The second version has logarithmic buckets, a norm on the vectors of
distances, and projections that tokens and distances may share; the first one has fused queries,
keys and values, and no bias on keys. ``legacy: false`` is another place of the masked language
modeling head in their files, with the same outputs.

Their classes set the embeddings of padding to zero, and drop out before the hidden layer of a
classification head if ``pooler_dropout`` says so. Neither changes what real positions answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import PosConfig, SegConfig, WordConfig
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
from orchestrator.modeling.huggingface.families import bert
from orchestrator.modeling.huggingface.values import (
    ACTIVATIONS,
    POOLER_STORED,
    JsonObject,
    Values,
    answers_of,
    span_of,
    transformer_of,
)
from orchestrator.modeling.layers.bias_options import DisentangledConfig
from orchestrator.modeling.layers.block_options import (
    ConvolutionConfig,
    LocalActivation,
    Projection,
)
from orchestrator.modeling.targets.answer_configs import ChoiceConfig
from orchestrator.modeling.targets.configs import HeadActivation, SequenceHeadConfig, TargetConfig
from orchestrator.modeling.targets.token_configs import TagsConfig

_OURS = "encoder.layers.{layer}"
NO_SEGMENTS = 2
"""Rows of a segment table that does not exist: our default."""
TERMS = ("c2p", "p2c")
"""Their names of content to position and position to content."""
CONVOLVED: dict[str, LocalActivation] = {"tanh": "tanh", **ACTIVATIONS}
"""Their ``conv_act`` → our activation after the convolution."""
POOLED: dict[str, HeadActivation] = {"gelu": "gelu", "relu": "relu", "tanh": "tanh"}
"""Their ``pooler_hidden_act`` → our activation after a hidden layer."""
NO_KEY: tuple[Projection, ...] = ("query", "value", "output")
"""Projections with a bias in the first version."""


def _embedding_rows(prefix: str, config: ModelConfig) -> Iterator[Row]:
    front = f"{prefix}embeddings"
    yield weight(f"{front}.word_embeddings", "embedding.word")
    if config.embedding.part("pos") is not None:
        yield weight(f"{front}.position_embeddings", "embedding.pos")
    if config.embedding.part("seg") is not None:
        yield weight(f"{front}.token_type_embeddings", "embedding.seg")
    if config.embedding.size is not None:
        yield weight(f"{front}.embed_proj", "embedding.projection")
    yield from linear(f"{front}.LayerNorm", "embedding.norm")


def _first_attention_rows(theirs: str, encoder: TransformerConfig) -> Iterator[Row]:
    ours = f"{_OURS}.attention"
    parts = [f"{ours}.{name}" for name in ("query", "key", "value")]
    yield weight(f"{theirs}.in_proj", *parts, heads=encoder.num_heads)
    yield same(f"{theirs}.q_bias", f"{ours}.query.bias")
    yield same(f"{theirs}.v_bias", f"{ours}.value.bias")
    bias = encoder.position_bias
    if isinstance(bias, DisentangledConfig) and bias.content_to_position:
        yield weight(f"{theirs}.pos_proj", f"{ours}.position_key")
    if isinstance(bias, DisentangledConfig) and bias.position_to_content:
        yield from linear(f"{theirs}.pos_q_proj", f"{ours}.position_query")


def _attention_rows(theirs: str, encoder: TransformerConfig) -> Iterator[Row]:
    ours = f"{_OURS}.attention"
    for name in ("query", "key", "value"):
        yield from linear(f"{theirs}.{name}_proj", f"{ours}.{name}")
    bias = encoder.position_bias
    if isinstance(bias, DisentangledConfig) and not bias.shared_projections:
        if bias.content_to_position:
            yield from linear(f"{theirs}.pos_key_proj", f"{ours}.position_key")
        if bias.position_to_content:
            yield from linear(f"{theirs}.pos_query_proj", f"{ours}.position_query")


def body(prefix: str, config: ModelConfig, *, first: bool) -> Iterator[Row]:
    """Yield embedding and encoder, whose names start with ``prefix`` (``deberta.``)."""
    encoder, front = transformer_of(config), f"{prefix}encoder"
    layer = f"{front}.layer.{{layer}}"
    yield from _embedding_rows(prefix, config)
    rows = _first_attention_rows if first else _attention_rows
    yield from rows(f"{layer}.attention.self", encoder)
    yield from linear(f"{layer}.attention.output.dense", f"{_OURS}.attention.output")
    yield from linear(f"{layer}.attention.output.LayerNorm", f"{_OURS}.norm1")
    yield from linear(f"{layer}.intermediate.dense", f"{_OURS}.feed_forward.up")
    yield from linear(f"{layer}.output.dense", f"{_OURS}.feed_forward.down")
    yield from linear(f"{layer}.output.LayerNorm", f"{_OURS}.norm2")
    if isinstance(encoder.position_bias, DisentangledConfig):
        yield weight(f"{front}.rel_embeddings", "encoder.position_vectors")
        if encoder.position_bias.norm:
            yield from linear(f"{front}.LayerNorm", "encoder.position_vectors.norm")
    if encoder.convolution is not None:
        yield from linear(f"{front}.conv.conv", "encoder.convolution.layer")
        yield from linear(f"{front}.conv.LayerNorm", "encoder.convolution.norm")


def table(prefix: str, first: bool, heads: Table, config: ModelConfig) -> list[Row]:
    """Return the rows of body and heads."""
    return expand((*body(prefix, config, first=first), *heads), transformer_of(config).num_layers)


def _terms(theirs: Values) -> Sequence[str]:
    """Return what attention compares with distances.

    Raises:
        InputError: There are others, or vectors of distances that nothing reads, or the reverse.
    """
    terms = theirs.texts("pos_att_type") if "pos_att_type" in theirs else ()
    if not set(terms) <= set(TERMS) or len(terms) != len({*terms}):
        raise InputError(f"pos_att_type: {list(terms)} is not supported; only {TERMS} are.")
    if theirs.flag("relative_attention") != bool(terms):
        raise InputError(
            f"pos_att_type: {list(terms)} is not supported with relative_attention: "
            f"{theirs.flag('relative_attention')}; its terms need it, and it needs one of them."
        )
    return terms


def _position_bias(theirs: Values, *, first: bool) -> DisentangledConfig | None:
    """Return how attention reads distances.

    Raises:
        InputError: There is a norm of another kind, or one of nothing.
    """
    terms = _terms(theirs)
    norms = theirs.text("norm_rel_ebd") if "norm_rel_ebd" in theirs and not first else "none"
    kinds = {each.strip() for each in norms.lower().split("|")} - {"none"}
    if not kinds <= ({"layer_norm"} if terms else set()):
        allowed = "'layer_norm' or 'none' is" if terms else "only 'none' is, without distances"
        raise InputError(f"norm_rel_ebd: {norms!r} is not supported; {allowed}.")
    if not terms:
        return None
    length, buckets = theirs.integer("max_relative_positions"), 0
    if not first:
        buckets = theirs.integer("position_buckets", 0)
    return DisentangledConfig(
        max_distance=length if length > 0 else theirs.integer("max_position_embeddings"),
        buckets=buckets if buckets > 0 else None,
        content_to_position="c2p" in terms,
        position_to_content="p2c" in terms,
        shared_projections=not first and theirs.flag("share_att_key", False),
        norm=bool(kinds),
    )


def _convolution(theirs: Values) -> ConvolutionConfig | None:
    kernel = theirs.integer("conv_kernel_size", 0)
    if kernel < 1:
        return None
    return ConvolutionConfig(
        kernel_size=kernel,
        groups=theirs.integer("conv_groups", 1),
        activation=theirs.choice("conv_act", CONVOLVED, "tanh"),
    )


def _embedding(theirs: Values) -> EmbeddingStackConfig:
    width, narrow = theirs.integer("hidden_size"), theirs.integer("embedding_size", 0)
    sized = narrow not in (0, width)
    positions = (PosConfig(),) if theirs.flag("position_biased_input") else ()
    segments = (SegConfig(),) if theirs.integer("type_vocab_size") > 0 else ()
    return EmbeddingStackConfig(
        parts=(WordConfig(), *positions, *segments),
        norm_eps=theirs.number("layer_norm_eps"),
        dropout=theirs.number("hidden_dropout_prob"),
        size=narrow if sized else None,
        projection="first" if sized else "last",
    )


def model_config(heads: Sequence[bert.Head], first: bool, theirs: Values) -> ModelConfig:
    """Return our model config for a ``DebertaConfig`` (``first``) or a ``DebertaV2Config``."""
    width, num_heads = theirs.integer("hidden_size"), theirs.integer("num_attention_heads")
    if first:
        theirs.require(talking_head=False)
    else:
        theirs.require(attention_head_size=width // num_heads)
    return ModelConfig(
        hidden_size=width,
        vocab_size=theirs.integer("vocab_size"),
        max_position_embeddings=theirs.integer("max_position_embeddings"),
        type_vocab_size=theirs.integer("type_vocab_size") or NO_SEGMENTS,
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("initializer_range"),
        embedding=_embedding(theirs),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=num_heads,
            intermediate_size=theirs.integer("intermediate_size"),
            norm_eps=theirs.number("layer_norm_eps"),
            activation=theirs.activation("hidden_act"),
            attention_bias=NO_KEY if first else None,
            position_bias=_position_bias(theirs, first=first),
            convolution=None if first else _convolution(theirs),
            dropout=theirs.number("hidden_dropout_prob"),
            attention_dropout=theirs.number("attention_probs_dropout_prob"),
        ),
        target=bert.targets_of(heads, theirs),
    )


def _mlm(theirs: Values) -> TargetConfig:
    if not theirs.flag("legacy") and "embedding_size" in theirs:
        theirs.require(embedding_size=theirs.integer("hidden_size"))
    return bert.mlm_config(theirs)


def _pooled(theirs: Values) -> tuple[HeadActivation, float]:
    """Return the activation of the head's hidden layer, and the dropout after it."""
    theirs.require(pooler_hidden_size=theirs.integer("hidden_size"), pooler_dropout=0)
    rate = theirs.number("cls_dropout", theirs.number("hidden_dropout_prob"))
    return theirs.choice("pooler_hidden_act", POOLED), rate


def _cls(theirs: Values) -> TargetConfig:
    activation, rate = _pooled(theirs)
    return answers_of(theirs, rate, activation)


def _choice(theirs: Values) -> TargetConfig:
    activation, rate = _pooled(theirs)
    return ChoiceConfig(hidden_activation=activation, dropout=rate)


def _tags(theirs: Values) -> TargetConfig:
    labels, rate = theirs.labels(), theirs.number("hidden_dropout_prob")
    return TagsConfig(num_labels=len(labels), dropout=rate)


def their_config(first: bool, config: ModelConfig) -> JsonObject:
    """Return the values of a ``DebertaConfig`` (``first``) or a ``DebertaV2Config``.

    Raises:
        InputError: Attention reads no distances. Their classes can do without, but a model made
            here then is one of a plainer class.
    """
    encoder = transformer_of(config)
    bias, convolution = encoder.position_bias, encoder.convolution
    if not isinstance(bias, DisentangledConfig):
        raise InputError("only disentangled attention has this form")
    used = (bias.content_to_position, bias.position_to_content)
    segments = config.embedding.part("seg") is not None
    values = bert.their_config(config) | {
        "embedding_size": config.embedding.size or config.hidden_size,
        "type_vocab_size": config.type_vocab_size if segments else 0,
        "position_biased_input": config.embedding.part("pos") is not None,
        "relative_attention": True,
        "pos_att_type": [term for term, on in zip(TERMS, used, strict=True) if on],
        "max_relative_positions": bias.max_distance,
    }
    for name in ("classifier_dropout", POOLER_STORED):
        values.pop(name, None)
    if not first:
        values["position_buckets"] = bias.buckets or -1
        values["share_att_key"] = bias.shared_projections
        values["norm_rel_ebd"] = "layer_norm" if bias.norm else "none"
    if convolution is not None:
        values["conv_kernel_size"] = convolution.kernel_size
        values["conv_groups"] = convolution.groups
        values["conv_act"] = next(k for k, v in CONVOLVED.items() if v == convolution.activation)
    for target in config.target:
        if isinstance(target, SequenceHeadConfig | ChoiceConfig):
            values["cls_dropout"] = target.dropout
            values["pooler_hidden_act"] = target.hidden_activation
    return values


def head_names(theirs: JsonObject) -> Mapping[str, str]:
    """Return where the masked language modeling head is in files with ``legacy: false``."""
    if theirs.get("legacy", True):
        return {}
    return {
        "cls.predictions.transform.": "lm_predictions.lm_head.",
        "cls.predictions.bias": "lm_predictions.lm_head.bias",
    }


def cls_table(first: bool, config: ModelConfig) -> list[Row]:
    """Return the rows of body and classification head."""
    rows = bert.answers_rows("pooler.dense", "classifier", config)
    return table("deberta.", first, rows, config)


REPEATED = (
    Repeat("cls.predictions.decoder.weight", of="deberta.embeddings.word_embeddings.weight"),
    Repeat("cls.predictions.decoder.bias", of="cls.predictions.bias"),
    Repeat("*embeddings.position_ids"),
    Repeat("*embeddings.position_embeddings.weight"),
    Repeat("mask_predictions.*"),
    Repeat("lm_predictions.*"),
)
"""Files of DeBERTa-v3 hold both heads of its pre-training, which no class of theirs has, and
positions that their class does not read."""


def _architectures(prefix: str, model_type: str, *, first: bool) -> Iterator[Architecture]:
    rows = partial(table, "deberta.", first)
    heads: dict[str, tuple[Sequence[bert.Head], Callable[[ModelConfig], Table]]] = {
        "ForMaskedLM": ([_mlm], partial(rows, bert.MLM)),
        "ForSequenceClassification": ([_cls], partial(cls_table, first)),
        "ForTokenClassification": ([_tags], partial(rows, bert.TAGS)),
        "ForQuestionAnswering": ([span_of], partial(rows, bert.SPAN)),
        "Model": ([], partial(table, "", first, ())),
    }
    if not first:
        own = bert.choice_rows("pooler.dense", "classifier")
        heads["ForMultipleChoice"] = ([_choice], partial(rows, own))
    for name, (targets, own_table) in heads.items():
        yield Architecture(
            prefix + name,
            model_type,
            partial(model_config, targets, first),
            partial(their_config, first),
            own_table,
            REPEATED,
            front="deberta" if name == "Model" else "",
            unnamed=name == "Model",
            renames=head_names,
        )


ARCHITECTURES = (
    *_architectures("Deberta", "deberta", first=True),
    *_architectures("DebertaV2", "deberta-v2", first=False),
)
