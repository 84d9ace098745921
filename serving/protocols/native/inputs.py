"""``inputs`` of the native protocol as items."""

from collections.abc import Sequence
from typing import Any

from orchestrator.inference.inputs import Item
from serving.guard.errors import ErrorType, ServingError
from serving.protocols.native.bodies import PAIR, Asked, ChoiceQuestion, Question


def text_items(inputs: str | Sequence[Any]) -> list[Item]:
    """Return the texts of ``inputs``, given as text or as token ids, one or a batch."""
    if isinstance(inputs, str):
        return [Item(inputs)]
    if inputs and isinstance(inputs[0], int):
        return [Item("", tokens=tuple(map(int, inputs)))]
    items = []
    for index, each in enumerate(inputs):
        if isinstance(each, str):
            items.append(Item(each))
        elif isinstance(each, int) or (each and isinstance(each[0], str)):
            message = f"`inputs[{index}]` must be a text or the token ids of one."
            raise ServingError(ErrorType.VALIDATION, message)
        elif each:
            items.append(Item("", tokens=tuple(each)))
        else:
            raise ServingError(ErrorType.EMPTY, f"Input {index} is empty.")
    return items


def parse_inputs(
    value: str | Sequence[str | int | list[str] | list[int] | Asked] | Asked, takes_pairs: bool
) -> tuple[list[Item], bool]:
    """Return the items and whether the answer is for a single one.

    Args:
        value: ``inputs`` of a request.
        takes_pairs: Whether a flat list of two texts is one pair.

    Raises:
        ServingError: A batch that begins with a text has an item of another kind.
    """
    if isinstance(value, Question | ChoiceQuestion):
        return [value.item()], True
    if isinstance(value, str) or (value and isinstance(value[0], int)):
        return text_items(value), True
    if not value or not isinstance(value[0], str):
        return [_item(item) for item in value], False
    texts = []
    for index, item in enumerate(value):
        if not isinstance(item, str):
            message = f"`inputs[{index}]` must be a string like `inputs[0]`, not an array."
            raise ServingError(ErrorType.VALIDATION, message)
        texts.append(item)
    if takes_pairs and len(texts) <= PAIR:
        return [_pair(texts)], True
    return [Item(text) for text in texts], False


def _item(value: Any) -> Item:
    if isinstance(value, Question | ChoiceQuestion):
        return value.item()
    if not isinstance(value, str) and isinstance(value[0], int):
        return Item("", tokens=tuple(value))
    return Item(value) if isinstance(value, str) else _pair(value)


def _pair(texts: Sequence[str]) -> Item:
    return Item(texts[0], texts[1] if len(texts) == PAIR else None)
