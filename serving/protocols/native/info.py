"""``/info`` of the native protocol: the served package and the limits of the service."""

from math import isfinite
from typing import Literal

from pydantic import Field

from serving.config import Limits
from serving.guard.guard import Policy
from serving.model.card import SIMILARITY, ModelCard
from serving.protocols.messages import Message


class Classifier(Message):
    """Label names of the default target."""

    id2label: dict[str, str]
    """Index of a class, as text -> its name."""
    label2id: dict[str, int]
    """Name of a class -> its index."""


class ClassifierType(Message):
    """A model whose default target answers with labels."""

    classifier: Classifier
    """Its labels."""


class Pooling(Message):
    """Reduction of token vectors to one vector."""

    pooling: str
    """``mean``, ``cls`` ...; of several, joined by ``+``."""


class EmbeddingType(Message):
    """Any other model."""

    embedding: Pooling
    """Its pooling."""
    prompts: list[str] = Field(default_factory=list)
    """Names that ``prompt_name`` takes."""


class Reached(Message):
    """One metric of a target on its test rows."""

    value: float | None
    """The metric; null where it is undefined."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end."""


class TaskInfo(Message):
    """One target."""

    kind: str
    """Kind of task: ``classification``, ``multilabel``, ``tags``, ``regression`` ..."""
    labels: list[str]
    """Label names in order; empty where answers are not labels."""
    route: Literal["/predict", "/embed"]
    """Route that answers it; vectors also go to ``/similarity`` and ``/v1/embeddings``."""
    metrics: dict[str, Reached]
    """Figures on the package's test rows by metric, the primary one first; empty if unknown."""


class ServedModel(Message):
    """The served package."""

    model_id: str
    """Package name."""
    model_sha: str
    """SHA-256 of the package's manifest."""
    model_dtype: str
    """Number format of the weights."""
    model_type: ClassifierType | EmbeddingType
    """Kind of model."""
    version: str
    """Package version, ``v0001``."""
    backend: str
    """``onnxruntime`` or ``torch``."""
    reads: str
    """Content of inputs: ``text``, ``image`` or ``audio``."""
    max_input_length: int
    """Most tokens of one input, special tokens included."""
    targets: dict[str, list[str]]
    """Target -> its label names in order."""
    tasks: dict[str, TaskInfo]
    """Target -> what it answers."""
    default_target: str | None
    """Target that is answered when a request names none; null: it must be named."""
    embedding_size: int | None
    """Width of the vectors of ``/embed`` when a request names no target."""


class Info(Limits, ServedModel):
    """The served package and the limits of this service."""


def info(card: ModelCard, policy: Policy) -> Info:
    """Return what ``/info`` answers."""
    return Info(
        model_id=card.name,
        model_sha=card.digest,
        model_dtype=card.dtype,
        model_type=_model_type(card),
        version=card.version,
        backend=card.backend,
        reads=card.reads,
        max_input_length=card.max_length,
        targets={name: list(task.labels) for name, task in card.tasks.items()},
        tasks={name: _task_info(card, name) for name in card.tasks},
        default_target=card.default_target,
        embedding_size=card.embedding_size,
        **policy.limits.model_dump(),
    )


def _task_info(card: ModelCard, target: str) -> TaskInfo:
    task = card.tasks[target]
    metrics = {
        name: Reached(value=_finite(m.value), low=_finite(m.low), high=_finite(m.high))
        for name, m in card.metrics.get(target, {}).items()
    }
    route: Literal["/predict", "/embed"] = "/embed" if task.kind() == SIMILARITY else "/predict"
    return TaskInfo(kind=task.kind(), labels=list(task.labels), route=route, metrics=metrics)


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _model_type(card: ModelCard) -> ClassifierType | EmbeddingType:
    task = card.tasks.get(card.default_target or "")
    if task is None or not task.labels:
        modes = ("mean",) if card.stated is None else card.stated.pooling
        prompts = {} if card.stated is None else card.stated.prompts
        return EmbeddingType(embedding=Pooling(pooling="+".join(modes)), prompts=list(prompts))
    return ClassifierType(
        classifier=Classifier(
            id2label={str(index): label for index, label in enumerate(task.labels)},
            label2id={label: index for index, label in enumerate(task.labels)},
        )
    )
