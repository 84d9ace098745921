"""Long contexts in overlapping windows, each read with its whole question.

Devlin et al.'s ``run_squad``: a context that does not fit is cut every ``room - overlap`` tokens,
so that neighbours share ``overlap`` tokens; windows end with the one that reaches the end.

Shapes: S tokens of a window.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.data.processors.readings import Reading, reading_of
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.window_sizes import OVERLAP
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Encoding

MIN_ROOM = 2
"""Tokens of question and context below which nothing can be read."""

Window = tuple["Encoding", Reading]
"""One sequence as the model reads it, and the places of its tokens."""


def read_windows(
    processor: TextProcessor,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int | None = None,
    overlap: int = OVERLAP,
) -> list[list[Window]]:
    """Tokenize questions with the windows of their contexts.

    A question may take half the room; what is longer is cut at its end.

    Args:
        processor: the tokenizer.
        questions: N questions.
        contexts: N contexts.
        max_length: limit of a window in tokens; None takes the processor's.
        overlap: tokens that neighbours share.

    Returns:
        The windows of each row, at least one. Words of a reading are those of the context.

    Raises:
        InputError: the limit leaves no room for question and context.
    """
    limit = processor.max_length if max_length is None else max_length
    room = limit - processor.tokenizer.num_special_tokens_to_add(True)
    if room < MIN_ROOM:
        raise InputError(
            f"max_length {limit} leaves no room for a question and a context. Raise it."
        )
    first = processor.tokenizer.encode_batch(list(questions), add_special_tokens=False)
    second = processor.tokenizer.encode_batch(list(contexts), add_special_tokens=False)
    found: list[list[Window]] = []
    for question, context, text in zip(first, second, contexts, strict=True):
        question.truncate(max(room // 2, room - len(context)))
        left = room - len(question)
        context.truncate(left, stride=min(overlap, left // 2))
        parts = [context, *context.overflowing]
        framed = [processor.tokenizer.post_process(question, part, True) for part in parts]
        found.append([(each, reading_of(each, text, 1)) for each in framed])
    return found


def joined(readings: Sequence[Reading]) -> Reading:
    """Return the windows of one context as one reading, their tokens one after the other."""
    lengths = [len(reading.words) for reading in readings]
    return Reading(
        readings[0].text,
        np.concatenate([reading.offsets for reading in readings]),
        np.concatenate([reading.words for reading in readings]),
        tuple(int(start) for start in np.cumsum([0, *lengths[:-1]])),
    )


def place_of(reading: Reading, start: int, end: int) -> tuple[int, int] | None:
    """Return the first and last token of the characters from start to end.

    None: the window does not have all of them.
    """
    inside = np.flatnonzero(reading.words >= 0)
    begins, ends = reading.offsets[inside].T
    overlaps = np.flatnonzero((begins < end) & (ends > start))
    if not len(overlaps) or begins[overlaps[0]] > start or ends[overlaps[-1]] < end:
        return None
    return int(inside[overlaps[0]]), int(inside[overlaps[-1]])
