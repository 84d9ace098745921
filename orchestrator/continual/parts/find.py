"""Find flatness and constrain by it: importance of each weight, and a quadratic penalty.

After a task with weights ``m`` its importance ``F_new`` is measured (``fisher``) and added to that
of earlier tasks (online EWC, Schwarz et al. 2018; Kirkpatrick et al. 2017). While the next task is
learned, the penalty's gradient joins the task's:

    accumulate   F <- gamma * F + F_new
    penalty      P(w) = lambda / 2 * sum_i F_i (w_i - m_i)^2,  dP/dw_i = lambda * F_i (w_i - m_i)

The penalty is taken at the weights themselves, also where the task's gradient is taken at the
perturbed point (``create``): the min-max is over the task loss only. It is written onto the
gradients of the fp32 masters; no graph is built.

Deviations from the published code: ``F_new`` may be divided by its mean (its scale follows the loss
and the model's size, and one lambda would not carry over), and the sum of both gradients is clipped
to ``max_grad_norm`` (there nothing is clipped).
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from orchestrator.continual.fisher import gathered_fisher, sharded_fisher
from orchestrator.continual.parts.base import Anchors, Leftovers, Part, ShardSums, Task, cut
from orchestrator.continual.parts.configs import FindConfig
from orchestrator.errors import StageError
from orchestrator.inference.protection import FISHER
from orchestrator.modeling.importance import Importance
from orchestrator.training.engines.engine import Batch, Engine, Shard, gradient
from orchestrator.training.engines.optimizers import target_of
from orchestrator.training.metrics import StepMetrics
from orchestrator.training.watchdog import beating

IMPORTANCE = "importance"
"""Name under which the accumulated importance is stored."""


class Find(Part[FindConfig]):
    """Measure importance after each task, and pull weights back by it in the next.

    Reports ``penalty``: the value of P at the start of the update.
    """

    _anchors = Anchors()
    _brought: Importance = {}  # noqa: RUF012  (replaced, never changed)
    _value = 0.0

    @property
    def left_name(self) -> str:
        """Name of the importance in run folders and packages."""
        return IMPORTANCE

    def before_task(self, task: Task) -> None:
        """Take this rank's anchors, and the importance of each; 0 where none was measured.

        A package brings what its last stream accumulated, or what its fine-tuning measured. For
        heads that have neither, it is measured here, on the rows that the package keeps of them.
        """
        left = task.left(IMPORTANCE)
        fisher = {} if left else task.left(FISHER)
        known = {target_of(name) for name, value in {**left, **fisher}.items() if value.any()}
        exemplars = task.exemplars(self.config.fisher_samples, known)
        if fisher or exemplars:
            brought = left or self._scaled(fisher)
            if exemplars:
                brought = accumulate(brought, self._measured(task, exemplars), gamma=1.0)
            self._brought = {n: v for n, v in brought.items() if n in task.anchors.names}
        self._anchors, found = task.anchors, cut(task.engine, self._brought or left)
        self._importance = {
            name: found.get(name, torch.zeros_like(anchor))
            for name, anchor in self._anchors.weights.items()
        }

    def gradient(self, engine: Engine, compute: Callable[[], StepMetrics]) -> StepMetrics:
        """Add the penalty's gradient to the task's."""
        metrics, self._value = compute(), 0.0
        if self._anchors and self.config.penalty > 0:
            self._value = add_penalty(
                engine.shards(), self._anchors.weights, self._importance, self.config.penalty
            )
        return metrics

    def shard_sums(self) -> ShardSums:
        """Return the penalty's value."""
        return {"penalty": (self._value,)} if self._anchors else {}

    def after_task(self, task: Task) -> Leftovers:
        """Measure the task's importance and add it to that of earlier tasks."""
        measured = self._measured(task, task.samples(self.config.fisher_samples))
        earlier = self._brought or task.left(IMPORTANCE)
        return Leftovers(accumulate(earlier, measured, self.config.gamma))

    def _measured(self, task: Task, samples: Iterable[Batch]) -> Importance:
        """Return the importance for some rows of all parameters but heads still to come."""
        samples = beating(samples)
        if self.config.way == "gathered":
            measured = gathered_fisher(task.engine, task.skeleton, samples)
        else:
            measured = sharded_fisher(task.engine, samples)
        names = task.protected(measured)
        return self._scaled({name: value for name, value in measured.items() if name in names})

    def _scaled(self, measured: Importance) -> Importance:
        return normalized(measured) if self.config.normalise else measured


@torch.no_grad()
def add_penalty(
    shards: list[Shard],
    anchors: Mapping[str, Tensor],
    importance: Mapping[str, Tensor],
    strength: float,
) -> float:
    """Add the penalty's gradient ``lambda * F * (w - m)`` to the gradients.

    Args:
        shards: This rank's shards; their masters are at ``w``.
        anchors: ``m`` of each shard, [n]; shards without an anchor are free.
        importance: ``F`` of each shard with an anchor, [n].
        strength: Lambda.

    Returns:
        This rank's part of the penalty's value (sum it over shards), accumulated in fp64.

    Raises:
        StageError: A weight has an anchor but no importance, or the other way round.
    """
    if anchors.keys() != importance.keys():
        names = sorted(anchors.keys() ^ importance.keys())
        raise StageError(f"anchors and importance differ in: {', '.join(names)}")
    value = torch.zeros((), dtype=torch.float64)
    for shard in shards:
        if (anchor := anchors.get(shard.name)) is None:
            continue
        away = shard.master - anchor
        pull = importance[shard.name] * away
        gradient(shard).add_(pull, alpha=strength)
        value += 0.5 * strength * torch.dot(pull.double(), away.double()).cpu()
    return float(value)


def normalized(importance: Importance) -> Importance:
    """Divide by the mean over all elements; an importance of zero everywhere stays zero."""
    total = sum(float(value.double().sum()) for value in importance.values())
    mean = total / max(1, sum(value.numel() for value in importance.values()))
    return {name: value / mean if mean > 0 else value for name, value in importance.items()}


def accumulate(old: Mapping[str, Tensor], new: Importance, gamma: float) -> Importance:
    """Return ``gamma * old + new``; parameters that are new have no old importance."""
    return {
        name: value if name not in old else gamma * old[name] + value for name, value in new.items()
    }
