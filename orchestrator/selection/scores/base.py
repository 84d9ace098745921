"""The interface of a proxy score, and the registry of all proxy scores.

A proxy scores one model on the target without training it. It maps features ``[n, D]`` (or the
probabilities ``[n, Z]`` of a trained source head) and labels to a number; larger is better;
arithmetic is in fp64. Labels are classes ``[n]`` with values 0..K-1, or numbers ``[n, K]``
(regression, similarity, several labels per row), which some proxies read. Floor and p-value come
from `permutations`: what a proxy gives when the labels carry no information.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray, IntArray
from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.errors import InputError
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.permutations import LEVEL, p_value, permuted

DEAD = 1e-6
"""Standard deviation of features, relative to their size, below which they are equal."""


class ProxyConfig(EntryConfig):
    """A proxy has no options: a config lists names. A subclass has ``type: str = "<name>"``."""


class Proxy(ABC):
    """One proxy score; a subclass nests a `ProxyConfig` as ``Config`` and joins `PROXIES`."""

    Config: ClassVar[type[ProxyConfig]]
    reads_head: ClassVar[bool] = False
    """Read the probabilities of a trained source head instead of features."""
    reads_numbers: ClassVar[bool] = False
    """Score numbers as well as classes: override `number_scores`."""
    unit_order: ClassVar[int | None] = None
    """Position among the proxies that ``recall.mode: paper`` may multiply by; None: never."""

    @abstractmethod
    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Score features ``[n, D]`` or head probabilities ``[n, Z]`` against labels ``[n]``."""

    def scores(self, inputs: FloatArray, labelings: IntArray) -> FloatArray:
        """Score the same inputs against several labelings ``[P, n]``; return ``[P]``.

        Override it where work on the inputs alone (a decomposition, neighbors) can be shared.
        """
        return np.array([self.score(inputs, labels) for labels in labelings])

    def number_scores(self, inputs: FloatArray, targets: FloatArray) -> FloatArray:
        """Score features ``[n, D]`` against several ``targets`` ``[P, n, K]``; return ``[P]``.

        Each of the K columns has mean 0 and spread 1, or is 0.

        Raises:
            NotImplementedError: The proxy reads classes only.
        """
        raise NotImplementedError(f"{self.Config.type_name()} reads classes only")

    def to_unit(self, value: float) -> float:
        """A score as a number in [0, 1]; used where ``unit_order`` is set."""
        return value


def one_hot(labelings: IntArray) -> FloatArray:
    """Indicators ``[P, n, K]`` of labelings ``[P, n]``."""
    return np.asarray(np.eye(int(labelings.max()) + 1)[labelings])


PROXIES = Registry("proxy", ProxyConfig, builtin="orchestrator.selection.scores")


def unit_proxies(names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that ``recall.mode: paper`` may multiply by, the preferred one first."""
    order = {name: PROXIES.component_class(name).unit_order for name in names}
    return tuple(sorted((n for n in order if order[n] is not None), key=lambda n: (order[n], n)))


def applicable(names: Iterable[str], *, numbers: bool) -> tuple[str, ...]:
    """Those of ``names`` that read numbers, or all of them where labels are classes."""
    return tuple(n for n in names if not numbers or PROXIES.component_class(n).reads_numbers)


def score_features(
    names: Sequence[str],
    features: FloatArray,
    labels: AnyArray,
    probabilities: FloatArray | None = None,
    seed: int = 0,
) -> ProxyScore:
    """Run the named proxies on the features of one model.

    Args:
        names: Registered proxies; those that read a head are skipped without ``probabilities``, and
            those that read classes only are skipped for numbers.
        features: ``[n, D]`` features of training rows.
        labels: ``[n]`` class numbers, or ``[n, K]`` numbers.
        probabilities: ``[n, Z]`` of a trained source head, None for a headless encoder.
        seed: Of the permutations; one seed for all models of a target.

    Raises:
        InputError: An unknown proxy, features that are not finite or equal for every row, or only
            one label.
    """
    numbers = np.asarray(labels).ndim > 1
    proxies: dict[str, Proxy] = {
        name: PROXIES.component_class(name)() for name in applicable(names, numbers=numbers)
    }
    targets = _standardized(labels) if numbers else _numbered(labels)
    if targets.max(initial=0) <= 0:
        raise InputError("proxy: all training rows have one label; nothing can be ranked.")
    _require_alive(features)
    labelings = permuted(targets, seed)
    score = ProxyScore(values={}, floors={}, rows=len(targets))
    for name, proxy in proxies.items():
        inputs = probabilities if proxy.reads_head else features
        if inputs is None:
            continue
        compute = proxy.number_scores if numbers else proxy.scores
        found = compute(np.asarray(inputs, dtype=np.float64), labelings)
        if np.isfinite(found).all():
            score.values[name], null = float(found[0]), found[1:]
            score.floors[name] = float(np.quantile(null, 1.0 - LEVEL))
            score.p_values[name] = p_value(found[0], null)
            score.nulls[name] = tuple(float(f"{value:.6g}") for value in null)
    return score


def _numbered(labels: AnyArray) -> AnyArray:
    """Classes ``[n]`` as numbers 0..K-1."""
    return np.asarray(np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64))


def _standardized(labels: AnyArray) -> AnyArray:
    """Numbers ``[n, K]`` with mean 0 and spread 1 in each column; constant columns are 0."""
    centered = np.asarray(labels, dtype=np.float64) - np.mean(labels, axis=0)
    spread = centered.std(axis=0)
    return np.asarray(np.where(spread > 0, centered / np.where(spread > 0, spread, 1.0), 0.0))


def _require_alive(features: FloatArray) -> None:
    if not np.isfinite(features).all():
        raise InputError("proxy: the features are not finite; the model is broken.")
    if features.std(axis=0).max(initial=0.0) <= DEAD * max(
        np.abs(features).max(initial=0.0), 1e-12
    ):
        raise InputError("proxy: the features are equal for every row; the model is dead.")
