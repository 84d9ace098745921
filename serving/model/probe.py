"""The probe: a few texts and the answers the package gave when it was made.

``evaluation/probe.json`` of a package holds them. A replica takes traffic only after its own
answers match; a wrong or damaged model never does. Packages without the file are probed against the
replica's own first answers: that still finds a model that turns unstable later, and answers must at
least be finite.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.config import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.inference.batching import Outputs
from serving.model.engine import Engine

PROBE_FILE: Final = "evaluation/probe.json"
TOLERANCE: Final = 1e-3
"""Largest difference of a logit, relative to 1 + its size: other CPUs round in another order."""

DEFAULT_TEXTS: Final = (
    "Return the sum of the elements of an array.",
    "Raised when a file cannot be opened.",
    "Start a worker.",
)

logger = logging.getLogger(__name__)


class ProbeFile(StrictModel):
    """The content of ``evaluation/probe.json``."""

    schema_version: Literal[1]
    """Version of this layout."""
    texts: list[str]
    """B inputs."""
    outputs: dict[str, list[list[float] | list[list[float]]]]
    """Target -> logits [K] of each text, or [S, K] of a target that answers for tokens; or
    ``embedding`` -> [D]."""
    tolerance: float = TOLERANCE
    """Largest difference that is accepted, relative to 1 + the expected value's size."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Texts and the answers expected for them.

    Attributes:
        texts: B inputs.
        outputs: target -> logits of each text, or ``embedding`` -> vectors.
        tolerance: largest difference accepted, relative to 1 + the expected value's size.
    """

    texts: tuple[str, ...]
    outputs: Outputs
    tolerance: float = TOLERANCE

    @classmethod
    def read(cls, folder: Path) -> "Probe | None":
        """Read the probe of a package; None when it has none.

        Raises:
            IntegrityError: The file is not a probe.
        """
        path = folder / PROBE_FILE
        if not path.is_file():
            return None
        try:
            stored = ProbeFile.model_validate_json(path.read_bytes())
            outputs = {
                name: [np.asarray(row, dtype=np.float64) for row in rows]
                for name, rows in stored.outputs.items()
            }
            if any(len(rows) != len(stored.texts) for rows in outputs.values()):
                raise ValueError("it has more or fewer answers than texts")
        except ValueError as error:
            raise IntegrityError(f"{PROBE_FILE} of the package is damaged: {error}") from error
        return cls(tuple(stored.texts), outputs, stored.tolerance)

    @classmethod
    def record(cls, engine: Engine, texts: tuple[str, ...] = DEFAULT_TEXTS) -> "Probe":
        """Make a probe from what an engine answers now."""
        return cls(texts, engine.outputs(texts))

    def check(self, engine: Engine) -> None:
        """Compare an engine's answers with the expected ones.

        Raises:
            IntegrityError: They differ, or are not finite.
        """
        actual = engine.outputs(self.texts)
        for name, expected in self.outputs.items():
            shapes = [row.shape for row in expected]
            if name not in actual or [row.shape for row in actual[name]] != shapes:
                raise IntegrityError(f"{engine.card.ref} does not give the '{name}' of its probe.")
            worst = float(np.max([*map(_difference, actual[name], expected), 0.0]))
            if not worst <= self.tolerance:  # also true for NaN
                raise IntegrityError(
                    f"{engine.card.ref} answers its probe differently: '{name}' is off by "
                    f"{worst:.3g}, {self.tolerance:g} is allowed. The package or its runtime is "
                    "not the one that was evaluated; run `orchestrator zoo verify`."
                )


def _difference(actual: AnyArray, expected: AnyArray) -> float:
    """Return the largest difference, relative to 1 + the expected value's size."""
    return float((np.abs(actual - expected) / (1 + np.abs(expected))).max(initial=0.0))


def warm_up(engine: Engine, folder: Path, runs: int) -> Probe:
    """Run the model until it is warm and check what it says.

    Args:
        engine: The loaded package.
        folder: Where the package lies.
        runs: How often the model runs; at least once.

    Returns:
        The probe for later health checks.

    Raises:
        IntegrityError: The answers are not those of the stored probe, or not finite.
    """
    stored = Probe.read(folder)
    if stored is None:
        logger.warning("package=%s has no %s; probing for consistency", engine.card.ref, PROBE_FILE)
    probe = stored or Probe.record(engine)
    for _ in range(runs):
        probe.check(engine)
    return probe
