"""Transcription: what is said in a recording, by a CTC head or a decoder.

The metric is the word error rate (substitutions, insertions and deletions per word of the truth),
and the same over characters, as ``jiwer`` counts them.

Shapes: S frames, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import PositiveInt

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import LabelForm
from orchestrator.errors import InputError
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import HeadOptions, Task, TaskConfig, tasks
from orchestrator.tasks.kinds.generation import TextAnswer
from orchestrator.tasks.metrics import Metric, mean

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset
    from orchestrator.modeling.config import ModelConfig


class TranscriptionTaskConfig(TaskConfig):
    """The text that is said in a recording."""

    type: Literal["transcription"] = "transcription"
    max_new_tokens: PositiveInt = 128
    """Longest transcription that a decoder writes, in tokens."""
    decoder: bool = False
    """Whether a decoder writes the text (Speech2Text); false: frames are aligned (ctc)."""


@tasks.add
class Transcription(Task[TranscriptionTaskConfig, TextAnswer]):
    """The text that is said in a recording."""

    Config = TranscriptionTaskConfig
    modalities = frozenset({"audio"})
    has_labels = False
    writes_text = True
    target_types = ("ctc", "lm")

    @classmethod
    def form(cls) -> LabelForm:
        """The text that is said."""
        return FORMS["text"]

    def target(self, options: HeadOptions) -> TargetConfig:
        """Return the package's own head: it is tied to the letters or words that it knows.

        Raises:
            InputError: The task was made without the config of a model.
        """
        return self.require_own_head()

    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return recordings and their texts.

        Raises:
            InputError: The rows are not sounds, or the package reads none.
        """
        from orchestrator.data.samples.media_samples import (
            RowSounds,
            TranscriptSamples,
            media_processor,
        )

        found = media_processor(processor, rows)
        rate = found.sound.rate if found.sound is not None else 0
        sounds = RowSounds(rows, rate)
        return TranscriptSamples(sounds, found, self.head, 0, None, self.config.decoder)

    @classmethod
    def options_for(cls, rows: "Rows", model: "ModelConfig | None" = None) -> dict[str, object]:
        """A model with a decoder writes with it."""
        del rows
        return {"decoder": model is not None and model.decoder is not None}

    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[TextAnswer]:
        """Refuse logits: they become text by the tokenizer, in ``Predictor``.

        Raises:
            InputError: Always.
        """
        raise InputError("transcriptions are written by Predictor.answers")

    def written(self, texts: Sequence[str]) -> list[TextAnswer]:
        """Return written texts as answers."""
        return [TextAnswer(text) for text in texts]

    def metrics(self) -> tuple[Metric, ...]:
        """Return the word error rate, then the character error rate."""
        return (
            mean("wer", higher_is_better=False),
            mean("cer", higher_is_better=False),
        )

    def statistics(self, rows: "Rows", answers: Sequence[TextAnswer]) -> dict[str, FloatArray]:
        """Return errors and lengths of each row."""
        pairs = [
            (str(truth), answer.text) for truth, answer in zip(rows.labels, answers, strict=True)
        ]
        words = [(edits(t.split(), a.split()), len(t.split())) for t, a in pairs]
        letters = [(edits(t, a), len(t)) for t, a in pairs]
        return {
            "wer": np.asarray(words, dtype=np.float64),
            "cer": np.asarray(letters, dtype=np.float64),
        }


def edits(truth: Sequence[str], answer: Sequence[str]) -> int:
    """Return the smallest number of substitutions, insertions and deletions (Levenshtein)."""
    row = list(range(len(answer) + 1))
    for i, wanted in enumerate(truth, 1):
        before, row[0] = row[0], i
        for j, given in enumerate(answer, 1):
            change = before + (wanted != given)
            before = row[j]
            row[j] = min(change, row[j] + 1, row[j - 1] + 1)
    return row[-1]
