"""What clients may know about the served package."""

from dataclasses import dataclass
from typing import Any

from serving.config import Limits
from serving.errors import ErrorType, ServingError


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The served package in a few words; holds no path.

    Attributes:
        name: package name, what protocols call the model.
        version: package version, ``v0001``.
        digest: SHA-256 of the package's manifest.
        backend: ``onnxruntime`` or ``torch``.
        dtype: number format of the weights, as far as known.
        targets: classification target -> its K label names in order.
        default_target: target answered when a request names none; None without targets.
        takes_pairs: whether the task was trained on pairs of texts.
        max_length: most tokens of one input, special tokens included.
        embedding_size: width D of embeddings; None when the package gives none.
    """

    name: str
    version: str
    digest: str
    backend: str
    dtype: str
    targets: dict[str, tuple[str, ...]]
    default_target: str | None
    takes_pairs: bool
    max_length: int
    embedding_size: int | None

    @property
    def ref(self) -> str:
        """Pinned reference, ``name/v0001``."""
        return f"{self.name}/{self.version}"

    def target(self, wanted: str | None) -> str:
        """Return the classification target to answer.

        Raises:
            ServingError: the package has none, or not this one.
        """
        if not self.targets or self.default_target is None:
            message = f"{self.name} has no classification target; it offers /embed."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        if wanted is None:
            return self.default_target
        if wanted not in self.targets:
            message = f"There is no such target. Targets: {', '.join(self.targets)}."
            raise ServingError(ErrorType.NOT_FOUND, message)
        return wanted

    def info(self, limits: Limits) -> dict[str, Any]:
        """Answer of ``GET /info``, in the shape of Text Embeddings Inference."""
        return {
            "model_id": self.name,
            "model_sha": self.digest,
            "model_dtype": self.dtype,
            "model_type": self._model_type(),
            "version": self.version,
            "backend": self.backend,
            "max_input_length": self.max_length,
            "targets": {name: list(labels) for name, labels in self.targets.items()},
            "default_target": self.default_target,
            "embedding_size": self.embedding_size,
            **limits.model_dump(),
            "auto_truncate": False,
        }

    def _model_type(self) -> dict[str, Any]:
        if self.default_target is None:
            return {"embedding": {"pooling": "mean"}}
        labels = self.targets[self.default_target]
        return {
            "classifier": {
                "id2label": {str(index): label for index, label in enumerate(labels)},
                "label2id": {label: index for index, label in enumerate(labels)},
            }
        }
