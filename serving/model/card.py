"""The served package as clients may know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.inference.models import EMBEDDING
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.tasks.base import AnyTask
from orchestrator.zoo.suite import Figure
from serving.guard.errors import ErrorType, ServingError

SIMILARITY: Final = "similarity"
"""The kind of task whose answers are vectors."""
PAIR_CLASSES: Final = 2
"""Classes of a package that judges pairs; the last one says that they belong together."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Description of the served package; contains no path.

    Attributes:
        name: Package name, what protocols call the model.
        version: Package version, ``v0001``.
        digest: SHA-256 of the package's manifest.
        backend: ``onnxruntime`` or ``torch``.
        dtype: Number format of the weights.
        tasks: Target → the task that it answers.
        unserved: Target → kind of a task that no route answers.
        metrics: Target → what the package reached on its test rows, if it says so.
        default_target: Target answered when a request names none; None: it must be named, or there
            is none.
        takes_pairs: Whether the package was trained on pairs of texts.
        max_length: Most tokens of one input, special tokens included.
        embedding_sizes: Width D of each kind of vector, of ``embedding`` and similarity targets.
        stated: What ``embedding`` is; None: the mean over the tokens.
        reads: ``text``, ``image`` or ``audio``.
    """

    name: str
    version: str
    digest: str
    backend: str
    dtype: str
    tasks: Mapping[str, AnyTask]
    unserved: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, Figure]]
    default_target: str | None
    takes_pairs: bool
    max_length: int
    embedding_sizes: Mapping[str, int]
    stated: SentenceEmbedding | None = None
    reads: str = "text"

    @property
    def ref(self) -> str:
        """Pinned reference, ``name/v0001``."""
        return f"{self.name}/{self.version}"

    @property
    def embedding_size(self) -> int | None:
        """Width of the vectors that are given when a request names no target; None: none are."""
        return self.embedding_sizes[self.embedding()] if self.embedding_sizes else None

    def require_name(self, name: str | None) -> None:
        """Accept the package by name or pinned reference; no name means the served one.

        Raises:
            ServingError: Another name.
        """
        if name not in (None, self.name, self.ref):
            message = f"That model is not served here; {self.name} is."
            raise ServingError(ErrorType.NOT_FOUND, message)

    def task(self, wanted: str | None) -> AnyTask:
        """Return the task that ``/predict`` answers.

        Raises:
            ServingError: The package has none, or not this one; or another route answers it; or it
                has several and none is named.
        """
        task = self._named(wanted)
        if task.kind() == SIMILARITY:
            message = f"'{task.head}' answers similarity; /embed and /similarity answer it."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        return task

    def embedding(self, wanted: str | None = None) -> str:
        """Return the output that holds the vectors: of a similarity target, or ``embedding``.

        Raises:
            ServingError: There is no such target, or it is of another kind.
        """
        if self.reads != "text":
            message = f"{self.name} reads {self.reads}: /predict answers it, with files."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        if wanted is None:
            default = self.tasks.get(self.default_target or "")
            return default.head if default and default.kind() == SIMILARITY else EMBEDDING
        task = self._named(wanted)
        if task.kind() != SIMILARITY:
            message = f"'{task.head}' answers {task.kind()}, not similarity; /predict answers it."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        return task.head

    def prompt(self, name: str) -> str:
        """Return a prompt that the package states.

        Raises:
            ServingError: The prompt is unknown.
        """
        prompts = {} if self.stated is None else self.stated.prompts
        if name not in prompts:
            message = f"There is no such prompt. Prompts: {', '.join(prompts) or 'none'}."
            raise ServingError(ErrorType.VALIDATION, message)
        return prompts[name]

    def reranker(self, wanted: str | None) -> AnyTask | None:
        """Return the task that scores a query with a text; None: the cosine of their vectors does.

        Raises:
            ServingError: There is no such target, or its answers are no scores of pairs.
        """
        if wanted is None and self.default_target is None:
            return None
        task = self._named(wanted)
        if task.kind() == SIMILARITY:
            return None
        scores = (
            len(task.labels) == PAIR_CLASSES
            if task.kind() == "classification"
            else (task.kind() == "regression" and task.config.num_values == 1)
        )
        if not scores or "pair" not in task.modalities or not self.takes_pairs:
            if wanted is None:
                return None
            message = (
                f"'{task.head}' does not score pairs: that takes a package trained on pairs, with "
                "two classes or one number."
            )
            raise ServingError(ErrorType.UNSUPPORTED, message)
        return task

    def _named(self, wanted: str | None) -> AnyTask:
        name = self.default_target if wanted is None else wanted
        if name is not None and name in self.tasks:
            return self.tasks[name]
        targets = ", ".join(self.tasks)
        if name is not None and name in self.unserved:
            kind, message = ErrorType.UNSUPPORTED, f"No route answers {self.unserved[name]}."
        elif not self.tasks:
            message = f"{self.name} has no target that answers; it offers /embed."
            kind = ErrorType.UNSUPPORTED
        elif name is None:
            message = f"{self.name} has several targets: {targets}. Name one in `target`."
            kind = ErrorType.VALIDATION
        else:
            kind, message = ErrorType.NOT_FOUND, f"There is no such target. Targets: {targets}."
        raise ServingError(kind, message)
