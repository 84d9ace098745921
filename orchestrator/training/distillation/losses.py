"""Loss terms of distillation, for the engine's window: sums with their number of terms.

Answers (Hinton et al. 2015, section 2): with logits s of the student and t of the teacher,

    T^2 * KL(softmax(t / T) || softmax(s / T))

per row, or per tagged word. T^2 keeps the gradient's scale when T changes. Several labels per row
have the same with two outcomes per label; numbers have (s - t)^2. Deviation: the paper minimizes a
weighted mean of this and the loss on labels; here it is added to it with a weight.

Layers (Jiao et al. 2020, TinyBERT, equations 7 to 9): the mean squared error of H_S W and H_T over
the width, W shared by all layers as in the published code and left out where the widths are equal.
Deviations: the mean runs over real tokens and over layers, where theirs runs over padding too and
adds layers up; attention maps (equation 7) are not compared, because fused kernels have none.

Legend: B rows, S tokens, K outputs, L compared layers, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.modeling.model import Model

TEACHER = "teacher."
"""A batch has the teacher's logits for a head under this and the head's name, NaN where unknown."""

Divergence = Callable[[Tensor, Tensor, float], Tensor]
"""``(student, teacher, temperature) -> [..., terms]``, from logits [..., K]."""


def class_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL of two distributions over K classes, [..., 1] from logits [..., K]."""
    given = F.log_softmax(teacher / temperature, dim=-1)
    found = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (given.exp() * (given - found)).sum(-1, keepdim=True)


def label_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL of K yes-or-no answers, [..., K] from logits [..., K]."""
    s, t = student / temperature, teacher / temperature
    yes = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
    no = (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return temperature**2 * (yes + no)


def squared_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the squared differences of K numbers, [..., K]; there is no temperature."""
    del temperature
    return (student - teacher).square()


DIVERGENCES: Mapping[str, Divergence] = {
    "classification": class_divergence,
    "tags": class_divergence,
    "multilabel": label_divergence,
    "regression": squared_distance,
}
"""Loss of the answers by task kind."""


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """The loss of the answers of one head, an ``ExtraLoss``.

    Attributes:
        head: Name of the student's head.
        kind: Its task kind.
        temperature: T.
        weight: Weight in the objective.
    """

    head: str
    kind: str
    temperature: float
    weight: float

    @property
    def name(self) -> str:
        """Name in the metrics."""
        return f"soft.{self.head}"

    @property
    def heads(self) -> frozenset[str]:
        """The head."""
        return frozenset({self.head})

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Return the number of rows, words, labels or numbers that the teacher answered."""
        given = batch.get(TEACHER + self.head)
        if given is None:
            return 0
        outputs = 1 if DIVERGENCES[self.kind] is class_divergence else given.shape[-1]
        return int(_known(given).sum()) * outputs

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss summed over them, 0-dim."""
        given = batch[TEACHER + self.head]
        known = _known(given)
        logits = outputs[f"logits.{self.head}"]
        return DIVERGENCES[self.kind](logits[known], given[known], self.temperature).sum()


def _known(given: Tensor) -> Tensor:
    return given.isfinite().all(dim=-1)


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """The loss of the layers, an ``ExtraLoss``.

    Attributes:
        head: Name of the head ``states`` in both models.
        teacher: Reads the student's batches; on the student's device.
        weight: Weight in the objective.
    """

    head: str
    teacher: Model
    weight: float
    name: str = "hidden"

    @property
    def heads(self) -> frozenset[str]:
        """The head."""
        return frozenset({self.head})

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Return the number of real tokens."""
        return int(batch["attention_mask"].sum())

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss summed over real tokens, 0-dim."""
        with torch.no_grad():
            given = self.teacher(dict(batch), logits=[self.head])[f"logits.{self.head}"]
        found = outputs[f"logits.{self.head}"]
        return layer_distance(found, given, batch["attention_mask"])


def layer_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over layers and width, summed over real tokens, 0-dim.

    Args:
        student: Outputs of layers, projected, [B, S, L, W].
        teacher: [B, S, L, W].
        mask: 1 at real tokens, [B, S].
    """
    error = (student - teacher.to(student.dtype)).square().mean(dim=(2, 3))
    return error[mask.bool()].sum()
