"""One optimizer step of a task: the parts of the method around the plain step.

Order of a full C&F step (that of the published code): gradient at ``w``; ascent to ``w + e``;
gradient there; back to ``w``; penalty gradient at ``w``; clip the norm, optimizer step; box;
rehearsals when they are due, each a whole update of this kind. Without parts it *is* the plain
step, bit by bit; a part that is off costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.continual.parts.base import Part, total_metrics
from orchestrator.continual.parts.configs import CONTINUAL_PARTS, PartConfig
from orchestrator.training.descent import descend
from orchestrator.training.engines.engine import Batch, Engine, Projection, Shard
from orchestrator.training.metrics import StepMetrics


def build_parts(configs: Sequence[PartConfig]) -> list[Part[Any]]:
    """Return new parts in the given order."""
    return [CONTINUAL_PARTS.component_class(c.type_name())(c) for c in configs]


@dataclass(slots=True)
class ContinualStep:
    """A ``StepFunction`` for ``training.loop.train``.

    Attributes:
        parts: The parts of the method, after ``before_task``.
        max_grad_norm: Bound of the norm of the complete gradient, penalties included.
        steps_done: Steps of this task already taken (from a checkpoint).
    """

    parts: Sequence[Part[Any]]
    max_grad_norm: float | None
    steps_done: int = 0

    def __call__(self, engine: Engine, window: Sequence[Batch], lr: float) -> StepMetrics:
        """Take one step on the task's window, then what parts do after a step."""
        metrics = self._update(engine, lr, window)
        self.steps_done += 1
        update = partial(self._update, engine, lr)
        for part in self.parts:
            metrics = StepMetrics(metrics, part.after_step(engine, self.steps_done, update))
        return metrics

    def _update(self, engine: Engine, lr: float, window: Sequence[Batch]) -> StepMetrics:
        extra = [term for part in self.parts for term in part.extra()]
        compute: Callable[[], StepMetrics] = partial(engine.forward_backward, window, extra)
        for part in self.parts:
            compute = partial(part.gradient, engine, compute)
        metrics = compute()
        project = in_turn([p for part in self.parts if (p := part.projection()) is not None])
        metrics = descend(engine, metrics, lr, max_grad_norm=self.max_grad_norm, project=project)
        return StepMetrics(metrics, total_metrics(engine, self.parts))


def in_turn(projections: Sequence[Projection]) -> Projection | None:
    """Return one projection that applies all; None without any."""
    if not projections:
        return None

    def project(shards: list[Shard]) -> None:
        for each in projections:
            each(shards)

    return project
