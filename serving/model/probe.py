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

from orchestrator.config import StrictModel
from orchestrator.errors import IntegrityError
from serving.model.batching import Operation, Outputs
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
    outputs: dict[str, list[list[float]]]
    """Classification target -> logits [B, K], or ``embedding`` -> [B, D]."""
    tolerance: float = TOLERANCE
    """Largest difference that is accepted, relative to 1 + the expected value's size."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Texts and the answers expected for them.

    Attributes:
        texts: B inputs.
        outputs: name -> [B, K] logits or [B, D] embeddings.
        tolerance: largest difference accepted, relative to 1 + the expected value's size.
    """

    texts: tuple[str, ...]
    outputs: Outputs
    tolerance: float = TOLERANCE

    @classmethod
    def read(cls, folder: Path) -> "Probe | None":
        """Read the probe of a package; None when it has none.

        Raises:
            IntegrityError: the file is not a probe.
        """
        path = folder / PROBE_FILE
        if not path.is_file():
            return None
        try:
            stored = ProbeFile.model_validate_json(path.read_bytes())
            outputs = {name: np.asarray(rows) for name, rows in stored.outputs.items()}
        except ValueError as error:
            raise IntegrityError(f"{PROBE_FILE} of the package is damaged: {error}") from error
        return cls(tuple(stored.texts), outputs, stored.tolerance)

    @classmethod
    def record(cls, engine: Engine, texts: tuple[str, ...] = DEFAULT_TEXTS) -> "Probe":
        """Make a probe from what an engine answers now."""
        return cls(texts, _answers(engine, texts))

    def check(self, engine: Engine) -> None:
        """Compare an engine's answers with the expected ones.

        Raises:
            IntegrityError: they differ, or are not finite.
        """
        actual = _answers(engine, self.texts)
        for name, expected in self.outputs.items():
            if name not in actual or actual[name].shape != expected.shape:
                raise IntegrityError(f"{engine.card.ref} does not give the '{name}' of its probe.")
            difference = np.abs(actual[name] - expected) / (1 + np.abs(expected))
            worst = float(difference.max(initial=0.0))
            if not worst <= self.tolerance:  # also true for NaN
                raise IntegrityError(
                    f"{engine.card.ref} answers its probe differently: '{name}' is off by "
                    f"{worst:.3g}, {self.tolerance:g} is allowed. The package or its runtime is "
                    "not the one that was evaluated; run `orchestrator zoo verify`."
                )


def warm_up(engine: Engine, folder: Path, runs: int) -> Probe:
    """Run the model until it is warm and check what it says.

    Args:
        engine: the loaded package.
        folder: where the package lies.
        runs: how often the model runs; at least once.

    Returns:
        The probe for later health checks.

    Raises:
        IntegrityError: the answers are not those of the stored probe, or not finite.
    """
    stored = Probe.read(folder)
    if stored is None:
        logger.warning("package=%s has no %s; probing for consistency", engine.card.ref, PROBE_FILE)
    probe = stored or Probe.record(engine)
    for _ in range(runs):
        probe.check(engine)
    return probe


def _answers(engine: Engine, texts: tuple[str, ...]) -> Outputs:
    operations: tuple[Operation, ...] = ("embed", "predict") if engine.card.targets else ("embed",)
    answers: Outputs = {}
    for operation in operations:
        answers |= engine.answer(texts, operation)
    return {name: rows.astype(np.float64) for name, rows in answers.items()}
