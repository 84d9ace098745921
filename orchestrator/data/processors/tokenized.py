"""Tokenization of many texts, with an error that says which text cannot be read, and why."""

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Encoding

from orchestrator.errors import InputError

SHOWN = 40
"""Characters of a text in a message."""


def tokenized(encode: Callable[..., Any], texts: Sequence[Any], **options: bool) -> list[Encoding]:
    """Return the encodings of texts, or of rows of words, without special tokens.

    Args:
        encode: ``encode_batch`` of a tokenizer, or its fast form.
        texts: N texts, or N rows of words.
        options: Of ``encode``.

    Raises:
        InputError: One is not a text, or has half of a surrogate pair, which UTF-8 cannot write.
    """
    try:
        return list(encode(list(texts), add_special_tokens=False, **options))
    except TypeError:
        for place, row in enumerate(texts):
            for text in [row] if isinstance(row, str) or not isinstance(row, list) else row:
                if wrong := _wrong(text):
                    raise InputError(f"text {place}: {text!r:.{SHOWN}} {wrong}.") from None
        raise


def _wrong(text: object) -> str:
    """Return what keeps a text from being tokenized; empty if nothing does."""
    if not isinstance(text, str):
        return f"is a {type(text).__name__}. Give a text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair (\\ud800 to \\udfff). Give whole characters"
    return ""
