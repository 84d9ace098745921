"""Create flat regions: descend by the gradient at the worst point near the weights.

Equations, sources and deviations are those of ``orchestrator/training/sharpness.py``.
"""

from collections.abc import Callable

from orchestrator.continual.parts.base import Part
from orchestrator.continual.parts.configs import CreateConfig
from orchestrator.training.engines.engine import Engine
from orchestrator.training.metrics import StepMetrics
from orchestrator.training.sharpness import worst_gradient


class Create(Part[CreateConfig]):
    """Descend by the gradient at the worst point near the weights.

    Reports ``sharpness``: the loss there minus the loss at the weights.
    """

    def gradient(self, engine: Engine, compute: Callable[[], StepMetrics]) -> StepMetrics:
        """Compute the gradient at ``w``, ascend, compute it there, return to ``w``."""
        return worst_gradient(engine, compute, self.config.rho, adaptive=self.config.adaptive)
