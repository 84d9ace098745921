"""Nearest names: what somebody who mistyped a word most likely meant."""

import difflib
from collections.abc import Iterable

MAX_LISTED = 24
"""A message lists at most this many allowed names."""

SIMILARITY = 0.6
"""Ratio of `difflib.SequenceMatcher` from which two words count as near."""


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to ``word``, or None when nothing is near."""
    names = {name.lower(): name for name in allowed}
    found = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=SIMILARITY)
    return names[found[0]] if found else None


def listing(allowed: Iterable[str]) -> str:
    """Return the allowed names joined by commas, cut after `MAX_LISTED` of them."""
    names = list(allowed)
    shown = ", ".join(names[:MAX_LISTED])
    return f"{shown}, … ({len(names)} in all)" if len(names) > MAX_LISTED else shown


def did_you_mean(word: str, allowed: Iterable[str], label: str = "Allowed") -> str:
    """Return the sentences that help after an unknown name: the nearest name and what is allowed.

    Args:
        word: What was written.
        allowed: The names that exist.
        label: What the list is called in the message.

    Returns:
        For example ``Did you mean 'transformer'? Allowed: gru, lstm, transformer.``; empty when
        nothing is allowed.
    """
    names = list(allowed)
    near = nearest(word, names)
    guess = f"Did you mean {near!r}? " if near is not None else ""
    return f"{guess}{label}: {listing(names)}." if names else guess.strip()
