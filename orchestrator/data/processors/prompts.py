"""Prompts and answers as tokens: what a language model continues, and what it should write.

A prompt begins as the tokenizer begins a text ([CLS], <s>, or nothing) and stays open at its end.
An answer is read as running text goes on, with a blank before it, and ends with the tokenizer's end
token. Prompt and answer are tokenized apart, so that training and writing see the same tokens.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError


def end_id(processor: TextProcessor) -> int:
    """Return the token that ends a text: the end token, else the separator.

    Raises:
        InputError: the tokenizer has neither.
    """
    special = processor.settings.special
    found = special.get("eos", special.get("sep"))
    if found is None:
        raise InputError("this tokenizer has no token that ends a text (eos or sep).")
    return found


def prompt_ids(
    processor: TextProcessor, prompts: Sequence[str], limit: int | None = None
) -> list[IntArray]:
    """Return the tokens of prompts; of one that is too long, the last ``limit``."""
    texts = [prompt.rstrip() for prompt in prompts]
    encodings = processor.tokenizer.encode_batch(texts, add_special_tokens=True)
    found = []
    for encoding in encodings:
        ids = np.asarray(encoding.ids, dtype=np.int64)
        ordinary = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)
        # What the tokenizer puts behind a text would end it.
        ids = ids[: ordinary[-1] + 1] if len(ordinary) else ids[:1]
        begin = int(ordinary[0]) if len(ordinary) else 0
        if limit is not None and len(ids) > limit:
            rest = max(limit - begin, 0)
            ids = np.concatenate([ids[:begin], ids[len(ids) - rest :]])[:limit]
        found.append(ids)
    return found


def answer_ids(
    processor: TextProcessor, answers: Sequence[str], limit: int | None = None
) -> list[IntArray]:
    """Return the tokens of answers with the end token; of one that is too long, the first."""
    end = end_id(processor)
    encoded = processor.encode([f" {answer.strip()}" for answer in answers])
    found = [np.asarray([*ids, end], dtype=np.int64) for ids in encoded]
    return found if limit is None else [ids[:limit] for ids in found]


def written_text(processor: TextProcessor, ids: Sequence[int]) -> str:
    """Return the text of written tokens, without blanks at both ends."""
    return processor.decode(ids).strip()
