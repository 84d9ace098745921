"""Distillation: earlier heads keep answering the new rows as they did before the task.

Learning without forgetting (Li & Hoiem 2017, equations 2 and 3). With y the teacher's and p the
student's softmax over the temperature T, the teacher being the model before the task:

    L = L_task + weight * sum over earlier heads of  T^2 * mean over rows of  KL(y || p)

Deviations from the paper: KL for the cross-entropy (the same gradient, and 0 where nothing has
changed), the factor T^2 (Hinton et al. 2015), so that the gradient does not fade as T grows, and no
warm-up in which the shared weights are frozen. The term is added to rehearsals too. Only heads that
answer one class per row are distilled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from orchestrator.continual.parts.base import Part, Task
from orchestrator.continual.parts.configs import DistillConfig
from orchestrator.modeling.model import Model
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.training.distillation.losses import class_divergence
from orchestrator.training.objective import ExtraLoss


class Distill(Part[DistillConfig]):
    """Distill the model before the task into the model that learns it.

    Reports ``loss.distill``: the mean over rows of the sum over heads, without its weight.
    """

    _terms: Sequence[ExtraLoss] = ()

    def before_task(self, task: Task) -> None:
        """Take the weights as they are now for the teacher; the first task may have none."""
        targets = cast(Model, task.skeleton).config.target
        classes = {each.name for each in targets if isinstance(each, ClsConfig)}
        if heads := task.earlier_heads & classes:
            device = next(task.engine.module.parameters()).device
            whole = {**task.engine.gathered(), **dict(task.engine.module.named_buffers())}
            weights = {name: value.to(device) for name, value in whole.items()}
            config = self.config
            self._terms = [
                _Term(task.skeleton, weights, frozenset(heads), config.weight, config.temperature)
            ]

    def extra(self) -> Sequence[ExtraLoss]:
        """Return the term of every update."""
        return self._terms


@dataclass(frozen=True)
class _Term:
    """An ``ExtraLoss``: divergence from the answers of the frozen teacher."""

    teacher: nn.Module
    weights: Mapping[str, Tensor]
    heads: frozenset[str]
    weight: float
    temperature: float
    name: str = "distill"

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Return one loss term per row."""
        return len(next(iter(batch.values())))

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum over rows and heads; logits are [B, K]."""
        inputs = {name: value for name, value in batch.items() if not name.startswith("labels.")}
        with torch.no_grad():
            old = torch.func.functional_call(
                self.teacher, dict(self.weights), (inputs,), {"logits": sorted(self.heads)}
            )
        total = torch.zeros((), device=next(iter(inputs.values())).device)
        for head in sorted(self.heads):
            student, teacher = outputs[f"logits.{head}"], old[f"logits.{head}"].float()
            total = total + class_divergence(student, teacher, self.temperature).sum()
        return total
