"""Tokenization with offsets: the characters and the word of each token.

Tasks whose answers lie in the text (tags, extracted answers) need it to decode; the arrays are
those of ``TextProcessor.arrays`` and ``word_arrays``.

Shapes: B texts, S tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor

if TYPE_CHECKING:
    from tokenizers import Encoding

    from orchestrator.data.processors.text import Arrays


@dataclass(frozen=True, slots=True)
class Reading:
    """Places of the tokens of one input.

    Attributes:
        text: The text; of a pair the second one, in which answers are found.
        offsets: Characters of ``text`` that each token covers, int64 [S, 2]; (0, 0) for others.
        words: Number of the word that each token belongs to, int64 [S]; -1 for tokens that do not
            belong to ``text``.
        windows: first token of each window, of a text that is read in several.
    """

    text: str
    offsets: IntArray
    words: IntArray
    windows: tuple[int, ...] = (0,)


def read_texts(
    processor: TextProcessor,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    max_length: int | None = None,
) -> "tuple[Arrays, list[Reading]]":
    """Tokenize texts or pairs as ``TextProcessor.arrays`` does, with places; padded on the right.

    Words are those of the tokenizer's own pre-tokenization.
    """
    limit = processor.max_length if max_length is None else max_length
    special = processor.tokenizer.num_special_tokens_to_add(pairs is not None)
    room = max(limit - special, 0)
    first = processor.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    if pairs is None:
        framed = [processor.frame(encoding, room) for encoding in first]
        return processor.stack(framed, "right"), [
            reading_of(encoding, text, 0) for encoding, text in zip(framed, texts, strict=True)
        ]
    second = processor.tokenizer.encode_batch(list(pairs), add_special_tokens=False)
    framed = [processor.frame(a, room, b) for a, b in zip(first, second, strict=True)]
    return processor.stack(framed, "right"), [
        reading_of(encoding, text, 1) for encoding, text in zip(framed, pairs, strict=True)
    ]


def read_words(
    processor: TextProcessor, rows: Sequence[Sequence[str]], max_length: int | None = None
) -> "tuple[Arrays, list[Reading]]":
    """Tokenize texts that are given as words, as ``TextProcessor.word_arrays`` does, with places.

    The text of a reading is the words with blanks between them, and a token covers its whole word.
    """
    arrays, starts = processor.word_arrays(rows, max_length)
    lengths = arrays["attention_mask"].sum(axis=1)
    readings = []
    for words, row, length in zip(rows, starts, lengths, strict=True):
        begins = [0, *accumulate(len(word) + 1 for word in words)]
        spans = np.asarray(
            [(begin, begin + len(word)) for begin, word in zip(begins, words, strict=False)],
            dtype=np.int64,
        ).reshape(-1, 2)
        numbers = row[:length]
        offsets = np.where(numbers[:, None] >= 0, spans[numbers], 0)
        readings.append(Reading(" ".join(words), offsets, numbers))
    return arrays, readings


def reading_of(encoding: "Encoding", text: str, sequence: int) -> Reading:
    """Return the places of one of the sequences of an input: 0, or 1 for the second text."""
    inside = np.asarray([found == sequence for found in encoding.sequence_ids], dtype=bool)
    words = [-1 if word is None else word for word in encoding.word_ids]
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return Reading(
        text,
        np.where(inside[:, None], offsets, 0),
        np.where(inside, np.asarray(words, dtype=np.int64), -1),
    )
