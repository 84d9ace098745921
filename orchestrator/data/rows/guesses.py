"""Baselines: the loss of the best prediction from label frequencies alone.

Losses are those of the targets: nats a label (cross entropy) or squares a number, so that both can
be compared. One is added to every count: what never occurred in training is not impossible.

Shapes: N rows of training, M held-out rows, K labels or numbers.
"""

import numpy as np

from orchestrator.arrays import Float32Array, IntArray

Guess = tuple[float, float]
"""Loss and accuracy."""


def guess_classes(seen: IntArray, asked: IntArray, classes: int | None = None) -> Guess:
    """Answer with the most frequent class of ``seen`` [N] to ``asked`` [M].

    Args:
        seen: Classes in training.
        asked: Held-out classes.
        classes: How many there are; None: those that occur.
    """
    size = classes or 1 + max(int(seen.max(initial=0)), int(asked.max(initial=0)))
    counts, found = np.bincount(seen, minlength=size), np.bincount(asked, minlength=size)
    kinds = classes or max(int((counts + found > 0).sum()), 1)
    chance = (counts + 1) / (counts.sum() + kinds)
    total = max(int(found.sum()), 1)
    return float(-(found * np.log(chance)).sum() / total), float(found[counts.argmax()] / total)


def guess_flags(seen: IntArray, asked: IntArray) -> Guess:
    """Answer each of K yes-or-no questions for itself; ``seen`` [N, K], ``asked`` [M, K]."""
    yes = (seen.sum(axis=0) + 1) / (len(seen) + 2)
    share = asked.mean(axis=0)
    loss = -(share * np.log(yes) + (1 - share) * np.log(1 - yes))
    right = np.where(yes > 1 / 2, share, 1 - share)
    return float(loss.mean()), float(right.mean())


def guess_numbers(seen: Float32Array, asked: Float32Array, tolerance: float = 0.0) -> Guess:
    """Answer each of K numbers with its mean in training; ``seen`` [N, K], ``asked`` [M, K].

    Args:
        seen: Numbers in training.
        asked: Held-out numbers.
        tolerance: An answer at most this far from the number counts as correct.
    """
    distance = asked - seen.mean(axis=0, dtype=np.float64)
    return float(np.square(distance).mean()), float((abs(distance) <= tolerance).mean())
