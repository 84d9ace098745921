"""Batching: the inputs of several requests in few runs of the model, bounded by tokens.

Inputs are sorted by length, which keeps padding small. A run ends where the next input would pass
the token limit, padding included. Results keep the order of the inputs.

Shapes: B inputs, S tokens of the longest, K classes, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.data.spec import PAD

Operation = Literal["predict", "embed"]

Outputs = dict[str, np.ndarray]
"""Name of a target -> [B, K] logits, or ``embedding`` -> [B, D]."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized input.

    Attributes:
        input_ids: [S] int64.
        token_type_ids: [S] int64, 1 in the second text of a pair.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one request."""

    operation: Operation
    inputs: Sequence[Encoded]


Run = Callable[[Sequence[Encoded], Operation], Outputs]
"""A model: encoded inputs and an operation -> arrays with one row per input."""


def run_batch(works: Sequence[Work], run: Run, max_batch_tokens: int) -> list[Outputs]:
    """Run the works of several requests together.

    Args:
        works: one per request, each with at least one input.
        run: the model.
        max_batch_tokens: maximum number of tokens in one run, padding included; a longer input
            runs alone.

    Returns:
        One `Outputs` per work, rows in the order of its inputs.
    """
    results: list[Outputs] = [{} for _ in works]
    operations: tuple[Operation, ...] = ("predict", "embed")
    for operation in operations:
        chosen = [index for index, work in enumerate(works) if work.operation == operation]
        items = [item for index in chosen for item in works[index].inputs]
        if not items:
            continue
        outputs = _run_sorted(items, run, operation, max_batch_tokens)
        start = 0
        for index in chosen:
            stop = start + len(works[index].inputs)
            results[index] = {name: rows[start:stop] for name, rows in outputs.items()}
            start = stop
    return results


def padded_tokens(items: Sequence[Encoded]) -> int:
    """Tokens of a run, padding included."""
    return len(items) * max(len(item) for item in items)


def pad(items: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """Return ``input_ids``, ``attention_mask`` and ``token_type_ids``, each [B, S] int64."""
    shape = (len(items), max(len(item) for item in items))
    ids = np.full(shape, PAD, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    for row, item in enumerate(items):
        length = len(item)
        ids[row, :length] = item.input_ids
        mask[row, :length] = 1
        types[row, :length] = item.token_type_ids
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _run_sorted(items: Sequence[Encoded], run: Run, operation: Operation, most: int) -> Outputs:
    order = sorted(range(len(items)), key=lambda index: len(items[index]))
    pieces = [
        run([items[index] for index in chunk], operation) for chunk in _chunks(order, items, most)
    ]
    back = np.argsort(order)
    return {name: np.concatenate([piece[name] for piece in pieces])[back] for name in pieces[0]}


def _chunks(order: Sequence[int], items: Sequence[Encoded], most: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    for index in order:  # shortest first: this one is the longest of its chunk so far
        if chunk and (len(chunk) + 1) * len(items[index]) > most:
            yield chunk
            chunk = []
        chunk.append(index)
    yield chunk
