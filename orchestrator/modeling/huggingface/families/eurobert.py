"""EuroBERT: LLaMA's blocks that read both sides, and heads of an encoder (Boizard et al. 2025).

``classifier_pooling: late`` averages the answers for all tokens; since the last layer is linear,
that is its answer for the average of what it reads, which is how it is computed here.
"""

from collections.abc import Callable, Sequence
from functools import partial

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Repeat,
    Row,
    Table,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.families import llama
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.layers.block_options import Projection
from orchestrator.modeling.targets.configs import (
    Pooling,
    SequenceHeadConfig,
    TargetConfig,
    TransformConfig,
)
from orchestrator.modeling.targets.token_configs import MlmConfig, TagsConfig

Head = Callable[[Values], TargetConfig]
"""Their config → the options of one target."""

POOLINGS: dict[str, tuple[Pooling, bool]] = {
    "bos": ("first", False),
    "mean": ("mean", False),
    "late": ("mean", True),
}
"""Their ``classifier_pooling`` → our pooling, and whether it comes last."""
REPEATED = (Repeat("lm_head.weight", of="model.embed_tokens.weight"),)


def model_config(heads: Sequence[Head], theirs: Values) -> ModelConfig:
    """Return our model config for a ``EuroBertConfig``."""
    attention, feed_forward = theirs.flag("attention_bias"), theirs.flag("mlp_bias")
    own: tuple[Projection, ...] = tuple(llama.PROJECTIONS.values()) if attention else ()
    config = llama.body_config(
        theirs,
        bias=feed_forward,
        attention_bias=None if attention == feed_forward else own,
        pads=True,
        options={"mask": "bidirectional", "attention": "unpadded"},
    )
    return config.with_targets([head(theirs) for head in heads])


def mlm_config(theirs: Values) -> MlmConfig:
    """Return the masked language modeling head: the output layer alone."""
    tie, bias = theirs.flag("tie_word_embeddings"), theirs.flag("mlp_bias")
    return MlmConfig(tie=tie, transform=False, bias=bias)


def cls_config(theirs: Values) -> TargetConfig:
    """Return the classification head: linear, GELU, linear, with pooling before or after."""
    pooling, last = theirs.choice("classifier_pooling", POOLINGS)
    return answers_of(
        theirs, 0.0, None, pooling=pooling, pools_last=last, transform=TransformConfig()
    )


def tags_config(theirs: Values) -> TagsConfig:
    """Return the token classification head: one linear layer."""
    return TagsConfig(num_labels=len(theirs.labels()), dropout=0.0)


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``EuroBertConfig``."""
    values = llama.their_config(config) | {"pad_token_id": config.pad_token_id}
    for target in config.target:
        if isinstance(target, MlmConfig):
            values["tie_word_embeddings"] = target.tie
        if isinstance(target, SequenceHeadConfig):
            chosen = (target.pooling, target.pools_last)
            names = [name for name, each in POOLINGS.items() if each == chosen]
            values["classifier_pooling"] = names[0] if names else "mean"
        if hasattr(target, "num_labels"):
            values |= their_answers(target)
    return values


def body(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``EuroBertModel``, with ``model`` in front."""
    return llama.table(config.with_targets([]))


def headless_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``EuroBertModel``."""
    return [same(row.theirs[0].removeprefix("model."), *row.ours) for row in body(config)]


def mlm_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``EuroBertForMaskedLM``."""
    rows = body(config)
    if not all(target.ties_words for target in config.target):
        rows.append(weight("lm_head", "targets.mlm.output"))
    if transformer_of(config).bias:
        rows.append(same("lm_head.bias", "targets.mlm.output.bias"))
    return rows


def cls_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``EuroBertForSequenceClassification``."""
    ours = f"targets.{config.target[0].name}"
    return [
        *body(config),
        *linear("dense", f"{ours}.transform.dense"),
        *linear("classifier", f"{ours}.output"),
    ]


def tags_table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``EuroBertForTokenClassification``."""
    return [*body(config), *linear("classifier", "targets.tags.output")]


def _architecture(
    name: str, heads: Sequence[Head], rows: Callable[[ModelConfig], Table], front: str = ""
) -> Architecture:
    return Architecture(
        f"EuroBert{name}",
        "eurobert",
        partial(model_config, heads),
        their_config,
        rows,
        REPEATED,
        front=front,
    )


ARCHITECTURES = (
    _architecture("Model", [], headless_table, front="model"),
    _architecture("ForMaskedLM", [mlm_config], mlm_table),
    _architecture("ForSequenceClassification", [cls_config], cls_table),
    _architecture("ForTokenClassification", [tags_config], tags_table),
)
