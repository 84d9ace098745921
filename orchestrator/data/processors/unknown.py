"""Share of tokens that a tokenizer does not know: [UNK] hides a word or character from a model.

A tokenizer trained on text of one script, or with too few places for the characters of Chinese,
answers with [UNK] instead of an error, and the model learns to predict it well.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.spec import TokenizerConfig

MAX_UNKNOWN = 0.01
"""Larger shares are said."""
SAMPLED_TEXTS = 4096
"""Texts that are tokenized to estimate the share; they lie at equal distances."""
GIVEN = "Take a tokenizer, or a package, that was trained on such texts."


def count_unknown(processor: TextProcessor, ids: Iterable[Sequence[int]]) -> int:
    """Return how many of some tokens are [UNK]."""
    unknown = processor.settings.special.get("unk")
    return 0 if unknown is None else sum(row.count(unknown) for row in ids)


def unknown_share(
    processor: TextProcessor | None, rows: Rows, most: int = SAMPLED_TEXTS
) -> float | None:
    """Return the share of [UNK] among the tokens of rows; None: they have no texts.

    Args:
        processor: The tokenizer.
        rows: The rows; first and second texts and candidates are read.
        most: Rows that are looked at.
    """
    if processor is None or not rows.texts:
        return None
    places = np.unique(np.linspace(0, len(rows.texts) - 1, most).astype(np.int64))
    sample = rows.take(places)
    texts = [text.replace("\n", " ") for text in sample.texts]
    texts += sample.pairs or []
    texts += [choice for choices in sample.choices or () for choice in choices]
    ids = processor.encode(texts)
    return count_unknown(processor, ids) / max(sum(map(len, ids)), 1)


def unknown_note(share: float | None, advice: str = GIVEN) -> str | None:
    """Return a sentence about a share that is too large, else None."""
    if share is None or share <= MAX_UNKNOWN:
        return None
    return (
        f"{share:.1%} of the tokens are [UNK]: the tokenizer does not know these words or "
        f"characters, and the model cannot see them. {advice}"
    )


def training_advice(config: TokenizerConfig) -> str:
    """Return what to do where the tokenizer of a corpus knows too little."""
    if config.path is not None:
        return GIVEN
    return (
        f"Raise data.tokenizer.vocab_size ({config.vocab_size}; Chinese has thousands of "
        "characters), or set data.tokenizer.type to bpe, which knows every byte."
    )
