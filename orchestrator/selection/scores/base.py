"""The interface of a proxy score, and the registry of all proxy scores.

A proxy scores one model on the target without training it. It maps features ``[n, D]`` (or the
probabilities ``[n, Z]`` of a trained source head) and labels ``[n]`` with values 0..K-1 to a
number; larger is better; arithmetic is in fp64. Its floor is the number it gives when the labels
carry no information.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.errors import InputError
from orchestrator.selection.results import ProxyScore

FLOOR_PERMUTATIONS = 3


class ProxyConfig(EntryConfig):
    """A proxy has no options: a config lists names. A subclass has ``type: str = "<name>"``."""


class Proxy(ABC):
    """One proxy score; a subclass nests a `ProxyConfig` as ``Config`` and joins `PROXIES`."""

    Config: ClassVar[type[ProxyConfig]]
    reads_head: ClassVar[bool] = False
    """Read the probabilities of a trained source head instead of features."""
    margin: ClassVar[float] = 0.0
    """Minimum distance of an informative score above its floor."""
    unit_order: ClassVar[int | None] = None
    """Position among the proxies that ``recall.mode: paper`` may multiply by; None: never."""

    @abstractmethod
    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Score features ``[n, D]`` or head probabilities ``[n, Z]`` against labels ``[n]``."""

    def floor(self, inputs: FloatArray, labels: IntArray, seed: int) -> float:
        """The score without information: the best of a few under permuted labels."""
        generator = np.random.default_rng(seed)
        permuted = [generator.permutation(labels) for _ in range(FLOOR_PERMUTATIONS)]
        return max(self.score(inputs, shuffled) for shuffled in permuted)

    def to_unit(self, value: float) -> float:
        """A score as a number in [0, 1]; used where ``unit_order`` is set."""
        return value


def label_entropy(labels: IntArray) -> float:
    """H(Y) in nats."""
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


PROXIES = Registry("proxy", ProxyConfig, builtin="orchestrator.selection.scores")


def unit_proxies(names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that ``recall.mode: paper`` may multiply by, the preferred one first."""
    order = {name: PROXIES.component_class(name).unit_order for name in names}
    return tuple(sorted((n for n in order if order[n] is not None), key=lambda n: (order[n], n)))


def score_features(
    names: Sequence[str],
    features: FloatArray,
    labels: IntArray,
    probabilities: FloatArray | None = None,
    seed: int = 0,
) -> ProxyScore:
    """Run the named proxies on the features of one model.

    Args:
        names: Registered proxies; those that read a head are skipped without ``probabilities``.
        features: ``[n, D]`` pooled features of training rows.
        labels: ``[n]`` class numbers.
        probabilities: ``[n, Z]`` of a trained source head, None for a headless encoder.
        seed: For the permutation floors.

    Raises:
        InputError: An unknown proxy, features that are not finite, or only one class.
    """
    proxies: dict[str, Proxy] = {name: PROXIES.component_class(name)() for name in names}
    if not np.isfinite(features).all():
        raise InputError("proxy: the features are not finite; the model is broken.")
    if len(np.unique(labels)) < 2:
        raise InputError("proxy: all training rows have one label; nothing can be ranked.")
    targets = np.asarray(labels, dtype=np.int64)
    values: dict[str, float] = {}
    floors: dict[str, float] = {}
    for name, proxy in proxies.items():
        inputs = probabilities if proxy.reads_head else features
        if inputs is not None:
            inputs = np.asarray(inputs, dtype=np.float64)
            values[name] = proxy.score(inputs, targets)
            floors[name] = proxy.floor(inputs, targets, seed)
    return ProxyScore(values=values, floors=floors, rows=len(targets))


def is_informative(score: ProxyScore, name: str) -> bool:
    """Return whether a score of proxy ``name`` lies above its floor by that proxy's margin."""
    margin: float = PROXIES.component_class(name).margin
    return score.values[name] > score.floors[name] + margin
