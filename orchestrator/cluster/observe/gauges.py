"""Ray gauges of a stage that describes its readings itself."""

from collections.abc import Iterable, Mapping

Definition = tuple[str, tuple[str, ...]]
"""Description and label names of one gauge."""
Reading = tuple[str, Mapping[str, str], float]
"""Name of a gauge, its labels, and the value."""


class Gauges:
    """Gauges in Ray's metrics, one per definition; make one per process.

    Args:
        definitions: Name, as exported without Ray's prefix, to description and labels.
    """

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            name: Gauge(name, description=text, tag_keys=labels)
            for name, (text, labels) in definitions.items()
        }

    def show(self, readings: Iterable[Reading]) -> None:
        """Set each gauge that is read."""
        for name, labels, value in readings:
            self._gauges[name].set(value, dict(labels))
