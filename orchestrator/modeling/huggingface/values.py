"""Their config.json: a typed reader, and values that their configs and ours express differently.

"Theirs" is what transformers calls a thing, "ours" what this project calls it.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import JsonValue

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.layers.block_options import Activation
from orchestrator.modeling.targets.answer_configs import (
    MultilabelConfig,
    RegressionConfig,
    SpanConfig,
)
from orchestrator.modeling.targets.configs import (
    ClsConfig,
    HeadPooling,
    TargetConfig,
    TransformConfig,
)

JsonObject = dict[str, JsonValue]
"""Content of a JSON file with keys at the top: their ``config.json``, a ``tokenizer.json``."""

T = TypeVar("T")

OUTPUT_STORED, POOLER_STORED = "output_stored", "pooler_stored"
"""Keys that only we read: whether the weights hold an output layer over words of their own, and a
pooler."""

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Their names of activation functions → ours."""


class Values:
    """The content of their ``config.json``, read key by key.

    Every getter raises ``InputError`` for a key that is missing or has a value of another kind, and
    names both.

    Args:
        content: Keys and values.
        path: Where this section is in the file, for messages; empty at the top.
    """

    def __init__(self, content: Mapping[str, JsonValue], path: str = "") -> None:
        self._content = dict(content)
        self._path = path

    def __contains__(self, key: str) -> bool:
        return self._content.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        value = self._get(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self._refused(key, value, "a whole number")

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise self._refused(key, value, "a number")

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._get(key, default)
        if isinstance(value, bool):
            return value
        raise self._refused(key, value, "true or false")

    def text(self, key: str) -> str:
        """Return a text."""
        value = self._get(key)
        if isinstance(value, str):
            return value
        raise self._refused(key, value, "a text")

    def optional_integer(self, key: str) -> int | None:
        """Return a whole number, or None where there is none."""
        return self.integer(key) if key in self else None

    def optional_number(self, key: str) -> float | None:
        """Return a number, or None where there is none."""
        return self.number(key) if key in self else None

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        items = self._items(key)
        found = tuple(each for each in items if isinstance(each, int))
        if len(found) != len(items):
            raise self._refused(key, self._content[key], "a list of whole numbers")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(str(each) for each in self._items(key))

    def square(self, key: str) -> int:
        """Return a size that is given once, or for height and width, which must be equal."""
        value = self._get(key)
        sizes = set(self.integers(key)) if isinstance(value, list | tuple) else {self.integer(key)}
        if len(sizes) != 1:
            raise InputError(f"{self._at(key)}: {value!r} is not supported; only squares are.")
        return sizes.pop()

    def section(self, key: str) -> "Values":
        """Return a nested section."""
        value = self._get(key)
        if isinstance(value, Mapping):
            return Values(value, self._at(key))
        raise self._refused(key, value, "a mapping")

    def labels(self) -> list[str]:
        """Return the names of the classes (``id2label``) in their order; none: an empty list."""
        names = self._content.get("id2label") or {}
        if not isinstance(names, Mapping):
            raise self._refused("id2label", names, "a mapping")
        return [str(names[key]) for key in sorted(names, key=int)]

    def choice(self, key: str, known: Mapping[str, T], default: str | None = None) -> T:
        """Return what one of their names means here; unknown ones are refused with those known."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in known:
            raise InputError(
                f"{self._at(key)}: {value!r} has no counterpart here. "
                f"Supported: {', '.join(map(repr, known))}."
            )
        return known[value]

    def activation(self, key: str) -> Activation:
        """Return our name of an activation function."""
        return self.choice(key, ACTIVATIONS)

    def require(self, **expected: JsonValue) -> None:
        """Refuse options that are set to another value than the supported one."""
        for key, value in expected.items():
            if self._content.get(key, value) != value:
                raise InputError(
                    f"{self._at(key)}: {self._content[key]!r} is not supported; only {value!r} is."
                )

    def without(self, keys: Sequence[str]) -> JsonObject:
        """Return the other keys that have a value."""
        items = self._content.items()
        return {key: value for key, value in items if key not in keys and value is not None}

    def _get(self, key: str, default: JsonValue = None) -> JsonValue:
        value = self._content.get(key)
        return default if value is None else value

    def _items(self, key: str) -> Sequence[JsonValue]:
        value = self._get(key)
        if isinstance(value, list | tuple):  # configs in memory hold tuples, files lists
            return value
        raise self._refused(key, value, "a list")

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _refused(self, key: str, value: JsonValue, allowed: str) -> InputError:
        if value is None:
            return InputError(f"{self._at(key)} is missing. Give {allowed}.")
        return InputError(f"{self._at(key)}: {value!r} is not supported; only {allowed} is.")


def their_activation(ours: Activation) -> str:
    """Return their name of an activation function, the first one where there are several."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


BORDERS = ("first", "last")
"""Tokens of an answer that are found."""
ANSWERS: dict[str, type[ClsConfig] | type[MultilabelConfig] | type[RegressionConfig]] = {
    "single_label_classification": ClsConfig,
    "multi_label_classification": MultilabelConfig,
    "regression": RegressionConfig,
}
"""Their ``problem_type`` → options of our target."""


def answers_of(
    theirs: Values,
    dropout: float,
    activation: str | None = "tanh",
    *,
    pooling: HeadPooling = "first",
    **options: float | bool | TransformConfig | None,
) -> TargetConfig:
    """Return the head for whole sequences or images: one vector, then one or two linear layers.

    Args:
        theirs: Their config.
        dropout: Rate before the last layer.
        activation: What follows the first of two layers; None: there is one layer.
        pooling: Which vector.
        options: Other options of `SequenceHeadConfig`.

    Raises:
        InputError: Their problem type is unknown here.
    """
    count = len(theirs.labels())
    # without a problem type, their classes decide so when they see labels
    default = "regression" if count == 1 else "single_label_classification"
    kind = theirs.choice("problem_type", ANSWERS, default)
    hidden = {} if activation is None else {"hidden": True, "hidden_activation": activation}
    values = {"num_labels": count, "pooling": pooling, "dropout": dropout}
    return kind.model_validate(values | hidden | options)


def span_of(theirs: Values, dropout: float = 0.0) -> SpanConfig:
    """Return the head that finds an answer: two outputs per token.

    Raises:
        InputError: Their class has another number of outputs.
    """
    if len(theirs.labels()) != len(BORDERS):
        raise InputError(
            f"id2label: {theirs.labels()} is not supported; an answer has two labels, for its "
            "first and its last token."
        )
    return SpanConfig(dropout=dropout)


def their_answers(target: TargetConfig) -> JsonObject:
    """Return the names of the answers, and ``problem_type`` where the default is another one."""
    problems = {config.type_name(): theirs for theirs, config in ANSWERS.items()}
    values = labels_of(target)
    if target.type_name() in problems and not isinstance(target, ClsConfig):
        values["problem_type"] = problems[target.type_name()]
    return values


def labels_of(target: TargetConfig) -> JsonObject:
    """Return ``id2label`` and ``label2id`` for a head, with the names they give by default."""
    return label_values([f"LABEL_{index}" for index in range(getattr(target, "num_labels", 2))])


def label_values(names: Sequence[str]) -> JsonObject:
    """Return ``id2label`` and ``label2id`` of named classes."""
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def transformer_of(config: ModelConfig) -> TransformerConfig:
    """Return the encoder's options.

    Raises:
        InputError: The encoder is not a transformer.
    """
    if not isinstance(config.encoder, TransformerConfig):
        raise InputError(
            f"encoder {config.encoder.type_name()!r}: only a transformer has this form"
        )
    return config.encoder


def decoder_of(config: ModelConfig) -> TransformerDecoderConfig:
    """Return the decoder's options.

    Raises:
        InputError: The decoder is not a transformer, or there is none.
    """
    if not isinstance(config.decoder, TransformerDecoderConfig):
        raise InputError("only a model with a transformer decoder has this form")
    return config.decoder
