"""Where sentences begin, in characters of a text and in its tokens.

A sentence ends with ``. ! ? …`` (and closing quotes or brackets) before white space, with the full
stops of Chinese and Japanese wherever they stand, and at a blank line. That is a rule for any
language with such marks, not a model: abbreviations end sentences too. Corpora that have a sentence
on each line say so (``sentences: lines``).
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SentenceRule = Literal["punctuation", "lines"]
IntArray = npt.NDArray[np.int64]

_CLOSING = r"[\"'”’»)\]}]*"
_PUNCTUATION = re.compile(rf"[.!?…]+{_CLOSING}\s+|[。！？｡]+[」』”’）]*\s*|\n\s*\n\s*")
_LINES = re.compile(r"\s*\n\s*")


def sentence_starts(text: str, rule: SentenceRule = "punctuation") -> list[int]:
    """Return where each sentence of a text begins, in characters; the first is 0."""
    pattern = _LINES if rule == "lines" else _PUNCTUATION
    return [0, *(found.end() for found in pattern.finditer(text) if found.end() < len(text))]


def encode_sentences(
    tokenizer: "Tokenizer", texts: Sequence[str], rule: SentenceRule
) -> Iterator[tuple[list[int], IntArray]]:
    """Tokenize whole texts and say which tokens are a sentence.

    Texts are not cut before they are tokenized, so the ids are those of the text as it is. A token
    belongs to the sentence of its last character.

    Yields:
        Ids without special tokens, and the number of tokens of each sentence (none is empty).
    """
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for text, encoding in zip(texts, encodings, strict=True):
        ids = list(encoding.ids)
        yield ids, _lengths(encoding.offsets, sentence_starts(text, rule))


def _lengths(offsets: Sequence[tuple[int, int]], starts: list[int]) -> IntArray:
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    span = np.asarray(offsets, dtype=np.int64)
    last = np.maximum(span[:, 0], span[:, 1] - 1)
    owner = np.maximum.accumulate(np.searchsorted(starts, last, side="right") - 1)
    counts = np.bincount(owner, minlength=len(starts))
    return counts[counts > 0].astype(np.int64)
