"""Answers of tasks as tensors of the Open Inference Protocol.

Shapes: B inputs, K labels or values, C candidates, D width.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.inference.inputs import Item
from orchestrator.inference.models import EMBEDDING
from orchestrator.tasks.base import Answer, AnyTask
from serving.model.card import ModelCard
from serving.protocols.answers import prediction
from serving.protocols.openinference.bodies import Datatype, TensorMetadata


class Output(NamedTuple):
    """One tensor of a kind of task.

    Attributes:
        name: Its name behind that of the target.
        datatype: Type of the elements.
        value: An answer → its row.
        width: Its second dimension: ``K``, ``D``; -1: any; None: it has only B elements.
    """

    name: str
    datatype: Datatype
    value: Callable[[AnyTask, Any], Any]
    width: str | int | None = None


def _field(name: str) -> Callable[[AnyTask, Any], Any]:
    return lambda _task, answer: getattr(answer, name)


def _json(task: AnyTask, answer: Any) -> str:
    return json.dumps(prediction(task, answer), ensure_ascii=False)


_TEXT: Final = (Output("text", "BYTES", _field("text")),)
OUTPUTS: Final[dict[str, tuple[Output, ...]]] = {
    "classification": (
        Output("label", "BYTES", _field("label")),
        Output("scores", "FP32", _field("scores"), "K"),
    ),
    "multilabel": (Output("scores", "FP32", _field("scores"), "K"),),
    "regression": (Output("values", "FP32", _field("values"), "K"),),
    "tags": (Output("spans", "BYTES", _json),),
    "question_answering": (
        Output("answer", "BYTES", _field("text")),
        Output("score", "FP32", _field("score")),
        Output("start", "INT64", _field("start")),
        Output("end", "INT64", _field("end")),
    ),
    "multiple_choice": (
        Output("choice", "INT64", _field("choice")),
        Output("scores", "FP32", _field("scores"), -1),
    ),
    "similarity": (Output("vector", "FP32", _field("vector"), "D"),),
    "generation": _TEXT,
    "transcription": _TEXT,
}
"""Kind of task → its tensors. ``spans`` are JSON texts, as ``/predict`` answers them."""
OTHER: Final = (Output("answer", "BYTES", _json),)
"""Kinds of other packages: a JSON text."""


def offered(card: ModelCard) -> dict[str, TensorMetadata]:
    """Return the tensors of a package by name."""
    found = []
    for target, task in card.tasks.items():
        for output in OUTPUTS.get(task.kind(), OTHER):
            shape = [-1]
            if output.width == "K":
                shape.append(len(task.labels) or task.config.num_values)
            elif output.width == "D":
                shape.append(card.embedding_sizes[target])
            elif output.width is not None:
                shape.append(-1)
            name = f"{target}.{output.name}"
            found.append(TensorMetadata(name=name, datatype=output.datatype, shape=shape))
    if card.embedding_size is not None:
        shape = [-1, card.embedding_size]
        found.append(TensorMetadata(name=EMBEDDING, datatype="FP32", shape=shape))
    return {tensor.name: tensor for tensor in found}


def columns(task: AnyTask, answers: Sequence[Answer]) -> dict[str, AnyArray]:
    """Return B answers of a target as tensors by name, [B] or [B, ...]."""
    found: dict[str, AnyArray] = {}
    for output in OUTPUTS.get(task.kind(), OTHER):
        rows = [output.value(task, answer) for answer in answers]
        dtype = {"BYTES": object, "FP32": np.float32, "INT64": np.int64}[output.datatype]
        found[f"{task.head}.{output.name}"] = np.asarray(rows, dtype=dtype)
    return found


def runs_with_others(task: AnyTask, items: Sequence[Item]) -> bool:
    """Return whether a task reads items as they are, so that targets share a run."""
    special = task.needs_reading or task.pairs_apart or task.reads_windows or task.writes_text
    forms = {"text" if item.pair is None else "pair" for item in items if not item.choices}
    plain = not special and task.template is None
    return plain and forms <= task.modalities and not any(item.choices for item in items)
