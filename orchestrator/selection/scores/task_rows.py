"""Features and labels that proxies read of the rows of a task, by its kind.

- classification: a row's pooled features and its class.
- multilabel, regression: a row's pooled features and its numbers, one of them 0 or 1 per label.
- similarity with scores: ``|u - v|`` and ``u * v`` of the two texts' features, and the score.
- multiple choice: pooled features of each candidate with its question; right or wrong.
- tags: the vectors of drawn words, each at its first token, and their tags. The words are the same
  for every package; a word beyond a package's limit has the vector 0.

Questions about contexts, and pairs without scores, have no label that the features of a frozen
model can be compared with: no proxy applies.

Shapes: n rows that are scored, D width, B rows of a batch, S tokens, C candidates of a row.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.selection.scores.proxy_kinds import NUMBER_KINDS

if TYPE_CHECKING:
    import torch

    from orchestrator.data.rows.rows import Rows

Batch = dict[str, "torch.Tensor"]
Pool = Callable[["torch.Tensor", Batch], "torch.Tensor"]
"""Maps hidden states ``[B, S, D]`` and their batch to pooled features ``[B, D]``."""


def drawn_words(rows: "Rows", limit: int, seed: int) -> IntArray:
    """Return at most ``limit`` words of tagged rows as (row, word), ``[n, 2]``, sorted."""
    counts = [len(tags) for tags in rows.labels]
    places = np.array([(row, word) for row, count in enumerate(counts) for word in range(count)])
    chosen = np.random.default_rng(seed).permutation(len(places))[:limit]
    return np.asarray(places[np.sort(chosen)])


def proxy_labels(kind: str, rows: "Rows", words: IntArray | None = None) -> AnyArray:
    """Return classes int64 ``[n]`` or numbers float64 ``[n, K]``.

    Args:
        kind: Kind of the task.
        rows: Training rows.
        words: From `drawn_words`, of tags.
    """
    if words is not None:
        return np.asarray([rows.labels[row][word] for row, word in words], dtype=np.int64)
    if kind == "multiple_choice":
        counts = [len(choices) for choices in rows.choices or ()]
        right = [np.arange(n) == label for n, label in zip(counts, rows.labels, strict=True)]
        return np.concatenate(right).astype(np.int64)
    if kind in NUMBER_KINDS:
        return np.asarray(rows.labels, dtype=np.float64).reshape(len(rows), -1)
    return np.asarray(rows.labels)


def features_of(
    kind: str, hidden: "torch.Tensor", batch: Batch, pool: Pool, rows: int
) -> "torch.Tensor":
    """Return the features of a batch of a task that is not tags, ``[n, D]``.

    Args:
        kind: Kind of the task.
        hidden: Vectors of all tokens.
        batch: Inputs.
        pool: The model's pooling.
        rows: Rows of the batch.
    """
    import torch  # a registry of proxies imports this folder's files

    pooled = pool(hidden, batch)
    if kind == "similarity":
        first, second = pooled[0 : 2 * rows : 2], pooled[1 : 2 * rows : 2]
        return torch.cat([(first - second).abs(), first * second], dim=1)
    if kind == "multiple_choice":
        return pooled[batch["attention_mask"].sum(dim=1) > 0]  # rows with fewer candidates
    return pooled


def word_vectors(
    hidden: "torch.Tensor", starts: AnyArray, places: IntArray, first_row: int
) -> "torch.Tensor":
    """Return the vectors of drawn words of a batch, ``[n, D]``.

    Args:
        hidden: Vectors of all tokens, ``[B, S, D]``.
        starts: Number of the word that begins at each token of all rows, else negative.
        places: From `drawn_words`, those of this batch.
        first_row: Row of the table that the batch begins with.
    """
    found = hidden.new_zeros(len(places), hidden.shape[-1])
    for place, (row, word) in enumerate(places):
        tokens = np.flatnonzero(starts[row] == word)
        if len(tokens) and tokens[0] < hidden.shape[1]:
            found[place] = hidden[row - first_row, int(tokens[0])]
    return found
