"""A proxy score: the Fisher ratio, scatter between the classes over scatter within them."""

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.scores.base import Proxy, ProxyConfig


class FisherRatio(Proxy):
    """``tr(S_between) / tr(S_within)`` of frozen features."""

    class Config(ProxyConfig):
        """A proxy has no options; ``type`` is its name in `recall.proxies`."""

        type: str = "fisher"

    def score(self, inputs: FloatArray, labels: IntArray) -> float:
        """Ratio of features ``[n, D]`` for labels ``[n]``; larger is better."""
        center = inputs.mean(axis=0)
        between = within = 0.0
        for label in np.unique(labels):
            rows = inputs[labels == label]
            mean = rows.mean(axis=0)
            between += len(rows) * float(((mean - center) ** 2).sum())
            within += float(((rows - mean) ** 2).sum())
        return between / max(within, 1e-12)
