"""Other heads of classes of causal models: classification, tags, answers, and the body alone.

They are derived from the class with the language model: same options, same rows, another head. A
classifier of theirs reads the last token that is not the padding token (``pad_token_id``), and has
no bias. There the mask plays no part in it; here a position must be real as well.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Row,
    Table,
    linear,
    weight,
)
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    span_of,
    their_answers,
)
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.token_configs import TagsConfig

TAGS_DROPOUT = 0.1
"""Dropout rate before the classifier of tokens, where their config does not say it."""


@dataclass(frozen=True, slots=True)
class Head:
    """One head of theirs.

    Attributes:
        make: Their config → the options of the target.
        rows: Name of the target → its rows.
    """

    make: Callable[[Values], TargetConfig]
    rows: Callable[[str], Table]


def classifier(theirs: Values) -> TargetConfig:
    """Return the classifier of a text.

    Raises:
        InputError: Their config has no padding token, so that it reads single texts only.
    """
    if "pad_token_id" not in theirs:
        raise InputError(
            "pad_token_id: null is not supported: the classifier reads the last token that is not "
            "padding. Name the tokenizer's padding token in config.json."
        )
    return answers_of(theirs, 0.0, None, pooling="last_token", output_bias=False)


def tagger(theirs: Values) -> TargetConfig:
    """Return the classifier of tokens."""
    theirs.require(token_classification_bias=True)
    dropout = theirs.number("classifier_dropout", theirs.number("hidden_dropout", TAGS_DROPOUT))
    return TagsConfig(num_labels=len(theirs.labels()), dropout=dropout)


def _output(theirs: str) -> Callable[[str], Table]:
    return lambda name: linear(theirs, f"targets.{name}.output")


def heads_of(
    lm: Architecture,
    *,
    family: str = "",
    front: str = "model",
    answers_front: str = "",
    tags: str = "score",
    without: Collection[str] = (),
) -> tuple[Architecture, ...]:
    """Return the classes of a family with other heads, and its body.

    Args:
        lm: The class with the language model.
        family: First part of the names of the other classes, where it differs.
        front: First part of the names of the body's tensors.
        answers_front: The same in the class for answers, where it differs.
        tags: Their name of the classifier of tokens.
        without: Heads that transformers does not have for this family.
    """
    family = family or lm.name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    heads = {
        "ForSequenceClassification": Head(
            classifier, lambda name: (weight("score", f"targets.{name}.output"),)
        ),
        "ForTokenClassification": Head(tagger, _output(tags)),
        "ForQuestionAnswering": Head(span_of, _output("qa_outputs")),
    }
    fronts = {"ForQuestionAnswering": answers_front or front}
    found = [
        _class(lm, family + name, front, fronts.get(name, front), head)
        for name, head in heads.items()
        if name not in without
    ]
    body = _class(lm, f"{family}Model", front, "", None)
    return (*found, replace(body, front=front))


def _class(
    lm: Architecture, name: str, old_front: str, front: str, head: Head | None
) -> Architecture:
    """Return a class with another head, or none."""

    def model_config(theirs: Values) -> ModelConfig:
        config = lm.model_config(theirs)
        pad = theirs.optional_integer("pad_token_id")
        if pad is not None:
            config = config.model_copy(update={"pad_token_id": pad})
        return config.with_targets(() if head is None else (head.make(theirs),))

    def their_config(config: ModelConfig) -> JsonObject:
        values = lm.their_config(config) | {"pad_token_id": config.pad_token_id}
        for target in config.target:
            values |= their_answers(target)
            if isinstance(target, TagsConfig):
                values["classifier_dropout"] = target.dropout
        return values

    def table(config: ModelConfig) -> Sequence[Row]:
        own = head.rows(config.target[0].name) if head is not None else ()
        rows = [*lm.table(config.with_targets(())), *own]
        return rows if front == old_front else [_renamed(row, old_front, front) for row in rows]

    repeated = tuple(each for each in lm.repeated if not each.of)
    return replace(
        lm,
        name=name,
        model_config=model_config,
        their_config=their_config,
        table=table,
        repeated=repeated,
    )


def _renamed(row: Row, old: str, new: str) -> Row:
    """Return a row whose names of theirs begin otherwise."""
    begin = f"{new}." if new else ""
    names = tuple(
        begin + name.removeprefix(f"{old}.") if name.startswith(f"{old}.") else name
        for name in row.theirs
    )
    return replace(row, theirs=names)
