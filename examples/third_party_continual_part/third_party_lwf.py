"""A continual-learning part in a package of its own: learning without forgetting.

Li & Hoiem 2017, equations 2 and 3: while a task is learned, every head of an earlier task keeps
answering the new rows as the model before the task did,

    L = L_task + weight * mean over rows and heads of  -sum_k y_k log p_k

with y and p the softmax of teacher and student logits over the temperature T. Deviation: the term
is scaled by T^2 (Hinton et al. 2015), so that its gradient does not fade as T grows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from orchestrator.continual.parts.base import Part, Task
from orchestrator.continual.parts.configs import PartConfig
from orchestrator.training.objective import ExtraLoss


class LwfConfig(PartConfig):
    """Keep the answers of earlier heads on the rows of the new task."""

    type: Literal["lwf"] = "lwf"
    weight: float = Field(1.0, ge=0)
    """Weight of the term beside the task's loss."""
    temperature: float = Field(2.0, gt=0)
    """Softens both distributions (2 in the paper)."""


@dataclass(frozen=True)
class Distillation:
    """The loss term: cross-entropy to the answers of the frozen teacher."""

    teacher: nn.Module
    weights: Mapping[str, Tensor]
    heads: frozenset[str]
    weight: float
    temperature: float
    name: str = "lwf"

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Return one loss term per row and head."""
        return len(next(iter(batch.values()))) * len(self.heads)

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum over rows and heads; logits are [B, K]."""
        inputs = {key: value for key, value in batch.items() if not key.startswith("labels.")}
        with torch.no_grad():
            old = torch.func.functional_call(
                self.teacher, dict(self.weights), (inputs,), {"logits": sorted(self.heads)}
            )
        total = torch.zeros((), device=next(iter(batch.values())).device)
        for head in sorted(self.heads):
            y = (old[f"logits.{head}"].float() / self.temperature).softmax(-1)
            log_p = (outputs[f"logits.{head}"] / self.temperature).log_softmax(-1)
            total = total - (y * log_p).sum()
        return total * self.temperature**2


class LearningWithoutForgetting(Part[LwfConfig]):
    """Distill the model before the task into the model that learns it."""

    Config = LwfConfig
    _terms: Sequence[ExtraLoss] = ()

    def before_task(self, task: Task) -> None:
        """Take the weights as they are now as the teacher's; the first task may have none."""
        if task.earlier_heads:
            buffers = dict(task.engine.module.named_buffers())
            weights = {**task.engine.gathered(), **buffers}
            config = self.config
            self._terms = [
                Distillation(
                    task.skeleton, weights, task.earlier_heads, config.weight, config.temperature
                )
            ]

    def extra(self) -> Sequence[ExtraLoss]:
        """Return the distillation of every update."""
        return self._terms
