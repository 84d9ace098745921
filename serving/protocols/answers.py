"""Answers of tasks in the shapes that clients know.

Classes are ranked as in Text Embeddings Inference; tagged spans and extracted answers are named as
in Hugging Face's pipelines. Other kinds answer as batch prediction writes them.

Answers are dictionaries and not models: there is one per input and class, and a model is ten times
as expensive to make.
"""

import base64
from collections.abc import Callable
from typing import Any, Final

from typing_extensions import TypedDict

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.tasks.base import Answer, AnyTask


class Score(TypedDict):
    """One class of a prediction."""

    score: float
    label: str


class Labels(TypedDict):
    """Labels of one input (``multilabel``).

    Attributes:
        labels: Those whose probability reaches the threshold.
        scores: Probability of every label, in the order of ``/info``.
    """

    labels: list[str]
    scores: list[float]


class Span(TypedDict):
    """A part of the text (``tags``).

    Attributes:
        entity_group: Its type: the tag without ``B-`` or ``I-``.
        score: Mean probability of the tags of its words.
        word: The characters.
        start: First character in the text.
        end: Character after the last one.
    """

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class Numbers(TypedDict):
    """Predicted numbers (``regression``).

    Attributes:
        values: As many as the target has outputs.
    """

    values: list[float]


class Extract(TypedDict):
    """A part of the context (``question_answering``).

    Attributes:
        answer: The characters; empty: the context does not answer.
        score: Its probability.
        start: First character in the context.
        end: Character after the last one.
    """

    answer: str
    score: float
    start: int
    end: int


class Choice(TypedDict):
    """The chosen candidate (``multiple_choice``).

    Attributes:
        choice: Its number, from 0.
        scores: Probability of each candidate.
    """

    choice: int
    scores: list[float]


Ranking = list[Score]
"""All classes of one input, most likely first (``classification``)."""

Prediction = Ranking | list[Span] | Labels | Numbers | Extract | Choice | dict[str, Any]
"""The answer to one input. The last form is for kinds of other packages."""


def ranking(labels: tuple[str, ...], scores: "AnyArray | tuple[float, ...]") -> Ranking:
    """Return classes with their scores, highest first; of equal ones, in their order."""
    pairs = sorted(zip(labels, map(float, scores), strict=True), key=lambda pair: -pair[1])
    return [{"score": score, "label": label} for label, score in pairs]


def base64_of(vector: Float32Array) -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def prediction(task: AnyTask, answer: Answer) -> Any:
    """Return an answer in the shape of its kind, one of ``Prediction``."""
    shape = _SHAPES.get(task.kind())
    return answer.to_json() if shape is None else shape(task, answer)


def _classes(task: AnyTask, answer: Any) -> Ranking:
    return ranking(task.labels, answer.scores)


def _spans(_task: AnyTask, answer: Any) -> list[Span]:
    return [
        {
            "entity_group": span.label,
            "score": span.score,
            "word": span.text,
            "start": span.start,
            "end": span.end,
        }
        for span in answer.spans
    ]


def _extract(_task: AnyTask, answer: Any) -> Extract:
    return {
        "answer": answer.text,
        "score": answer.score,
        "start": answer.start,
        "end": answer.end,
    }


_SHAPES: Final[dict[str, Callable[[AnyTask, Any], Any]]] = {
    "classification": _classes,
    "tags": _spans,
    "question_answering": _extract,
}
"""Kind → its shape; other kinds answer with their own JSON."""
