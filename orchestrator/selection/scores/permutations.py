"""Permutation tests of proxy scores: does a score say anything about the labels?

Under permuted labels features carry no information, so the share of permutations that score at
least as much as the true labels is an exact p-value (Phipson and Smyth 2010: the true labeling
counts as one of them).

One proxy is tested on several models at once. With m models, one of them is below .05 by chance in
up to ``1 - .95 ** m`` of targets, so the largest score of all models decides (max-statistic,
Westfall and Young 1993). Every model sees the same rows and the same permutations, which keeps the
dependence between models. Models differ in width and scale, so each score is first standardized by
the scores of its own model.
"""

from collections.abc import Mapping

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.selection.results import ProxyScore

PERMUTATIONS = 99
LEVEL = 0.05
"""Largest p-value of an informative score."""


def permuted(labels: AnyArray, seed: int) -> AnyArray:
    """Labelings ``[1 + PERMUTATIONS, n]``: the true labels first, then permutations of them.

    Numbers ``[n, K]`` give ``[1 + PERMUTATIONS, n, K]``: the K numbers of a row stay together.
    """
    generator = np.random.default_rng(seed)
    return np.stack([labels, *(generator.permutation(labels) for _ in range(PERMUTATIONS))])


def p_value(value: float, null: FloatArray) -> float:
    """Share of labelings, the true one among them, that score at least ``value``."""
    return (1 + int((null >= value).sum())) / (1 + len(null))


def is_informative(score: ProxyScore, name: str) -> bool:
    """Return whether one model's score of proxy ``name`` is above chance.

    Scores of earlier releases have no p-value; their floor decides.
    """
    if name in score.p_values:
        return score.p_values[name] <= LEVEL
    return score.values[name] > score.floors[name]


def says_something(scores: Mapping[str, ProxyScore], name: str) -> bool:
    """Return whether proxy ``name`` is above chance for the best of several models.

    Args:
        scores: Model to its scores; each has a value of ``name``.
        name: The proxy.
    """
    nulls = [score.nulls.get(name, ()) for score in scores.values()]
    if not nulls or not nulls[0] or len({len(null) for null in nulls}) > 1:
        return any(is_informative(score, name) for score in scores.values())
    values = [score.values[name] for score in scores.values()]
    drawn = np.column_stack([values, np.array(nulls)])  # [m, 1 + P]
    spread = np.maximum(drawn.std(axis=1, keepdims=True), np.finfo(float).tiny)
    best = ((drawn - drawn.mean(axis=1, keepdims=True)) / spread).max(axis=0)
    return p_value(float(best[0]), best[1:]) <= LEVEL
