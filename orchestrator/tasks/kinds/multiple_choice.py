"""Multiple choice: a question and several candidates; one of them is right.

Each candidate is read with the question in a sequence of its own; the head gives one logit each.
Rows may have different numbers of choices.

Shapes: N rows, C choices of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.modeling.targets.answer_configs import ChoiceConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import Answer, HeadOptions, Task, TaskConfig, tasks, text_processor
from orchestrator.tasks.metrics import Metric, share
from orchestrator.tasks.numerics import softmax

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset


@dataclass(frozen=True, slots=True)
class ChoiceAnswer(Answer):
    """The chosen candidate.

    Attributes:
        choice: Its number, from 0.
        scores: Probability of each.
    """

    choice: int
    scores: tuple[float, ...]


class MultipleChoiceConfig(TaskConfig):
    """One of several candidates per row."""

    type: Literal["multiple_choice"] = "multiple_choice"


@tasks.add
class MultipleChoice(Task[MultipleChoiceConfig, ChoiceAnswer]):
    """One of several candidates per row."""

    Config = MultipleChoiceConfig
    modalities = frozenset({"choices"})
    has_labels = False
    target_types = ("choice",)

    @classmethod
    def form(cls) -> LabelForm:
        """The number of the right choice."""
        return FORMS["choice"]

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return a head with one output per candidate."""
        return ChoiceConfig(
            name=self.head,
            pooling=options.pooling,
            hidden=options.hidden,
            dropout=options.dropout,
        )

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return rows, each with a sequence per choice."""
        from orchestrator.data.samples.task_samples import ChoiceSamples

        return ChoiceSamples(rows, text_processor(processor), self.head, max_length)

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[ChoiceAnswer]:
        """Return the most probable choice of each row, from its logits [C]."""
        del readings
        scores = [softmax(np.asarray(row).reshape(-1)) for row in outputs]
        return [ChoiceAnswer(int(row.argmax()), tuple(row.tolist())) for row in scores]

    def metrics(self) -> tuple[Metric, ...]:
        """Return accuracy."""
        return (share("accuracy"),)

    def statistics(self, rows: "Rows", answers: Sequence[ChoiceAnswer]) -> dict[str, FloatArray]:
        """Return whether each row is right."""
        chosen = np.asarray([answer.choice for answer in answers])
        right = (chosen == np.asarray(rows.labels)).astype(np.float64)
        return {"accuracy": np.stack([right, np.ones_like(right)], axis=1)}
