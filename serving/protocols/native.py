"""The native protocol: the routes and shapes of Text Embeddings Inference (TEI).

One difference, where TEI's shape would be a trap: a flat list of texts is a batch. TEI reads
``["a", "b"]`` as one pair; so does this for packages whose task takes pairs. ``[["a", "b"]]`` is a
pair and ``[["a"], ["b"]]`` a batch everywhere.
"""

from typing import Any

from serving.engine import TextInput
from serving.errors import ErrorType, ServingError
from serving.protocols import fields
from serving.service import Ranking, Service

PAIR = 2


async def predict(service: Service, body: dict[str, Any]) -> Any:
    """Answer ``POST /predict``: classes of each input, most likely first.

    Raises:
        ServingError: the body or an input is not acceptable.
    """
    fields.only(body, ("inputs", "truncate", "raw_scores", "target"))
    inputs, single = parse_inputs(fields.required(body, "inputs"), service.card.takes_pairs)
    rankings = await service.predict(
        inputs,
        truncate=fields.boolean(body, "truncate", default=False),
        raw_scores=fields.boolean(body, "raw_scores", default=False),
        target=fields.text(body, "target"),
    )
    answers = [_prediction(ranking) for ranking in rankings]
    return answers[0] if single else answers


async def embed(service: Service, body: dict[str, Any]) -> Any:
    """Answer ``POST /embed``: one vector per text, always as a list of vectors.

    Raises:
        ServingError: the body or an input is not acceptable.
    """
    fields.only(body, ("inputs", "truncate", "normalize"))
    texts = fields.strings(fields.required(body, "inputs"), "inputs")
    vectors, _ = await service.embed(
        [TextInput(text) for text in texts],
        truncate=fields.boolean(body, "truncate", default=False),
        normalize=fields.boolean(body, "normalize", default=True),
    )
    return vectors.tolist()


async def tokenize(service: Service, body: dict[str, Any]) -> Any:
    """Answer ``POST /tokenize``: the tokens of each text.

    Raises:
        ServingError: the body or a text is not acceptable.
    """
    fields.only(body, ("inputs", "add_special_tokens"))
    texts = fields.strings(fields.required(body, "inputs"), "inputs")
    special = fields.boolean(body, "add_special_tokens", default=True)
    return await service.tokenize(texts, special=special)


def parse_inputs(value: Any, takes_pairs: bool) -> tuple[list[TextInput], bool]:
    """Return the inputs and whether the answer is for a single one.

    Raises:
        ServingError: neither a text, nor a pair, nor a batch of those.
    """
    if isinstance(value, str):
        return [TextInput(value)], True
    if not isinstance(value, list):
        raise fields.wrong("inputs", "a string or an array", value)
    flat = bool(value) and isinstance(value[0], str)
    if flat and takes_pairs and len(value) <= PAIR:
        return [_sequence(value, "inputs")], True
    if flat:
        return [TextInput(text) for text in fields.strings(value, "inputs")], False
    return [_sequence(item, f"inputs[{index}]") for index, item in enumerate(value)], False


def _sequence(value: Any, name: str) -> TextInput:
    texts = fields.strings(value, name)
    if not 1 <= len(texts) <= PAIR:
        message = f"`{name}` has {len(texts)} texts; one, or two for a pair, are expected."
        raise ServingError(ErrorType.VALIDATION, message)
    return TextInput(*texts)


def _prediction(ranking: Ranking) -> list[dict[str, Any]]:
    return [
        {"score": score, "label": label}
        for label, score in zip(ranking.labels, ranking.scores, strict=True)
    ]
