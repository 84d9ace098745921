"""Options of distillation, and what is decided about it before training. Imports without torch."""

from collections.abc import Iterable

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.zoo.suite import TaskSpec


class DistillationOptions(StrictModel):
    """Weights of what is learned from a teacher, beside the labels (weight 1)."""

    temperature: PositiveFloat = 2.0
    """Logits of both are divided by this in the loss of the answers; regression has none."""
    soft_weight: NonNegativeFloat = 1.0
    """Weight of the loss that compares answers."""
    hidden_weight: NonNegativeFloat = 0.0
    """Weight of the loss that compares outputs of layers; both must read the same tokens."""
    layers: tuple[NonNegativeInt, ...] | None = Field(None, min_length=1)
    """Teacher's layer for each layer of the student, the embedding (0) first; null: evenly
    spaced."""

    def problems(self) -> Iterable[Problem]:
        """Something is learned, and layers are compared if they are named."""
        if not self.soft_weight and not self.hidden_weight:
            yield Problem("soft_weight", "is 0, and so is hidden_weight. Remove teacher.")
        if self.layers is not None and not self.hidden_weight:
            yield Problem("layers", "has no effect without hidden_weight. Set it, for example 1.")


class LayerPlan(StrictModel):
    """Layers that are compared."""

    student: tuple[NonNegativeInt, ...]
    """Layers of the student; 0: the embedding."""
    teacher: tuple[NonNegativeInt, ...]
    """The teacher's layer for each of them."""
    width: PositiveInt | None
    """Width that the student's outputs are projected to; null: both have the same."""


class TeacherPlan(StrictModel):
    """A teacher with everything decided."""

    folder: str
    """Folder of the teacher's package."""
    options: DistillationOptions
    """Weights and temperature."""
    tasks: dict[str, TaskSpec]
    """The teacher's task by the name of the student's head."""
    layers: LayerPlan | None = None
    """Layers that are compared; null: answers alone."""


def spread_layers(student: int, teacher: int) -> tuple[int, ...]:
    """Return the teacher's layer for layers 0 to ``student``: floor(m * teacher / student).

    With a whole ratio it is TinyBERT's g(m) = m * teacher / student, the embedding on the
    embedding (Jiao et al. 2020, section 3.1), and PKD-skip of Sun et al. 2019 without its last
    layer's exception.
    """
    return tuple(m * teacher // student for m in range(student + 1))
