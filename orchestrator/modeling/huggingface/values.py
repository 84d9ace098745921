"""Values that their configs and ours express differently."""

from typing import Any

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders.configs import TransformerDecoderConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import Values
from orchestrator.modeling.targets.configs import TargetConfig

ACTIVATIONS = {
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


def activation_of(theirs: Values, key: str) -> str:
    """Return our name of an activation function.

    Raises:
        InputError: There is none of that name here.
    """
    name: str = choice(theirs, key, ACTIVATIONS)
    return name


def their_activation(ours: str) -> str:
    """Return their name of an activation function, the first one where there are several."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def choice(theirs: Values, key: str, known: dict[Any, Any]) -> Any:
    """Return what one of their values means here.

    Raises:
        InputError: The value has no counterpart; those that have are listed.
    """
    value = theirs[key]
    if value not in known:
        raise InputError(
            f"{key}: {value!r} has no counterpart here. Supported: {', '.join(map(repr, known))}."
        )
    return known[value]


def require(theirs: Values, **expected: Any) -> None:
    """Refuse options of theirs that are not supported.

    Args:
        theirs: Their config.
        expected: The value that each option must have, where it is set at all.

    Raises:
        InputError: An option has another value.
    """
    for key, value in expected.items():
        if theirs.get(key, value) != value:
            raise InputError(f"{key}: {theirs[key]!r} is not supported; only {value!r} is.")


def num_labels_of(theirs: Values) -> int:
    """Return the number of classes."""
    return len(theirs["id2label"])


ANSWERS = {
    "single_label_classification": "cls",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}
"""Their ``problem_type`` → our target."""


def answers_of(theirs: Values) -> dict[str, Any]:
    """Return type and number of answers of a head for whole sequences.

    Raises:
        InputError: Their problem type is unknown here.
    """
    count, problem = num_labels_of(theirs), theirs.get("problem_type")
    if problem is None:  # their classes decide so when they see labels
        problem = "regression" if count == 1 else "single_label_classification"
    kind = choice({"problem_type": problem}, "problem_type", ANSWERS)
    return {"type": kind, "num_labels": count}


def their_answers(target: TargetConfig) -> dict[str, Any]:
    """Return the names of the answers, and ``problem_type`` where the default is another one."""
    problems = {ours: theirs for theirs, ours in ANSWERS.items() if ours != "cls"}
    problem = problems.get(target.type_name())
    return labels_of(target) | ({} if problem is None else {"problem_type": problem})


def labels_of(target: TargetConfig) -> dict[str, Any]:
    """Return ``id2label`` and ``label2id`` for a head, with the names they give by default."""
    count: int = getattr(target, "num_labels", 2)
    names = [f"LABEL_{index}" for index in range(count)]
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
