"""A text per row: what follows a prompt, or what is said in a recording.

Shapes: N rows.
"""

from collections.abc import Sequence
from typing import Any

from orchestrator.data.rows.labels import FreeForm, Labels, object_array
from orchestrator.data.rows.rereading import Label
from orchestrator.data.rows.rows import Rows
from orchestrator.data.spec import DatasetSpec


class TextForm(FreeForm):
    """A text per row: an object array [N] of str."""

    name = "text"
    what = ("text", "texts")
    text_columns = ("prompt", "input", "question", "source", "instruction", "article", "document")
    pair_columns = ()
    label_columns = (
        "answer",
        "output",
        "target",
        "completion",
        "response",
        "summary",
        "label",
    )
    media_label_columns = ("text", "transcript", "transcription", "sentence", "label")

    def label(self, value: object) -> Label | str:
        """Take a text that is not empty."""
        if value is None or value == "":
            return "label missing"
        text = str(value).strip() if isinstance(value, str | int) else ""
        if not isinstance(value, str | int) or isinstance(value, bool):
            return "label is not a text"
        return (text,) if text else "label is empty"

    def number(
        self, spec: DatasetSpec, split: str, labels: Sequence[Label], words: Sequence[str]
    ) -> Labels:
        """Return the text of each row."""
        del spec, split, words
        return self.stack([label[0] for label in labels])

    def stack(self, labels: Sequence[Any]) -> Labels:
        """Return an object array [N]."""
        return object_array([str(label) for label in labels])

    def written(self, rows: Rows) -> list[str]:
        """Return the texts that are learned."""
        return [str(label) for label in rows.labels]

    def texts(self, rows: Rows) -> list[str]:
        """Return prompts and texts."""
        return [*super().texts(rows), *self.written(rows)]

    def row_keys(self, rows: Rows) -> list[str]:
        """Return prompts with their answers: a prompt may have several."""
        keys = super().row_keys(rows)
        return [f"{key}\x00{label}" for key, label in zip(keys, rows.labels, strict=True)]

    def leak_keys(self, rows: Rows) -> list[str]:
        """Return the prompts: all answers of one prompt are in the same split."""
        return super().row_keys(rows)
