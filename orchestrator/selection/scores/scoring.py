"""Run proxy scores on the features of one model."""

from collections.abc import Sequence

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.errors import InputError
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.base import PROXIES, Proxy


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
