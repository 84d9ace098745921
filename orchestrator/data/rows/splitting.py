"""Train, validation and test: stratified, deterministic, and no text on both sides.

Rows are ordered by the hash of (seed, text), so that a row's split does not depend on the order in
which rows were read, and adding rows moves few others.
"""

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.errors import InputError

MIN_ROWS = 2  # one row cannot be both in train and in a held-out split
NAME = re.compile(r"[`*]*[A-Za-z_]*(?:[a-z][A-Z]|[A-Z]{2}|[0-9_])\w*[`*]*")
WORD = re.compile(r"[^\W_]+")


def fingerprint(text: str) -> str:
    """Fold what copies of a text differ in: names with capitals, digits, underscores; case; signs.

    Two texts with the same fingerprint count as one. Empty where a text has no words.
    """
    return " ".join(WORD.findall(NAME.sub(" x ", text).lower()))


def rank(seed: int, text: str) -> bytes:
    """Return the place of a text in the order of a seed."""
    return hashlib.blake2b(f"{seed}\x00{text}".encode(), digest_size=16).digest()


def split_indices(
    labels: IntArray,
    keys: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    names: Sequence[str] | None = None,
) -> list[IntArray]:
    """Split rows class by class.

    Args:
        labels: Class of each row [N].
        keys: Text of each row; decides its place.
        fractions: Shares of the held-out parts.
        seed: Another seed gives another split.
        names: Name of each class, for the message.

    Returns:
        Indices of what is left for training, then of each held-out part. Every part has at least
        one row of each class.

    Raises:
        InputError: A class has a single row, or fewer rows than there are parts.
    """
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    needed = max(MIN_ROWS, len(parts))
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label).tolist()
        rows: list[int] = sorted(members, key=lambda i: rank(seed, keys[i]))
        if len(rows) < needed:
            raise InputError(
                f"class {names[label] if names else str(label)!r} has {len(rows)} row"
                f"{'s' if len(rows) > 1 else ''}, at least {needed} are needed to learn from "
                "some and test on others. Add rows, raise max_rows or drop the class."
            )
        for part, share in zip(parts, _cut(rows, fractions), strict=True):
            part.extend(share)
    return [np.asarray(sorted(part, key=lambda i: rank(seed, keys[i]))) for part in parts]


def split_groups(groups: Sequence[str], fractions: Sequence[float], seed: int) -> list[IntArray]:
    """Split rows so that rows of one group are in the same part.

    Args:
        groups: group of each row [N].
        fractions: shares of the held-out parts, in rows; a part has whole groups and at least one.
        seed: another seed gives another split.

    Returns:
        Indices of what is left for training, then of each held-out part.

    Raises:
        InputError: there are fewer groups than parts.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = sorted(members, key=lambda group: rank(seed, group))
    if len(order) < len(fractions) + 1:
        raise InputError(
            f"{len(groups)} rows are about {len(order)} different texts, at least "
            f"{len(fractions) + 1} are needed: rows about one text stay in one split. Add rows or "
            "give files for each split."
        )
    parts: list[list[int]] = []
    for place, share in enumerate(fractions):
        part = members[order.pop(0)]
        # Every part that follows, and training, needs a group.
        while len(order) > len(fractions) - place:
            added = len(part) + len(members[order[0]])
            if abs(added - share * len(groups)) > abs(len(part) - share * len(groups)):
                break
            part = part + members[order.pop(0)]
        parts.append(part)
    left = [index for group in order for index in members[group]]
    return [np.asarray(part, dtype=np.int64) for part in [left, *parts]]


def _cut(rows: list[int], fractions: Sequence[float]) -> list[list[int]]:
    """Cut held-out parts off the front of some rows; the rest is the first result."""
    sizes = [max(1, round(share * len(rows))) for share in fractions]
    while sum(sizes) >= len(rows):
        sizes[int(np.argmax(sizes))] -= 1
    ends = np.cumsum([0, *sizes]).tolist()
    held_out = [rows[start:end] for start, end in pairwise(ends)]
    return [rows[ends[-1] :], *held_out]


def cap_indices(labels: IntArray, keys: Sequence[str], limit: int, seed: int) -> IntArray:
    """Return the rows selected by a cap: classes as equal as possible."""
    rows = sorted(range(len(labels)), key=lambda i: rank(seed, keys[i]))
    by_class: dict[int, list[int]] = {}
    for row in rows:
        by_class.setdefault(int(labels[row]), []).append(row)
    kept: list[int] = []
    depth = 0
    while len(kept) < min(limit, len(labels)):
        level = [members[depth] for members in by_class.values() if depth < len(members)]
        kept.extend(level[: limit - len(kept)])
        depth += 1
    return np.asarray(sorted(kept), dtype=np.int64)
