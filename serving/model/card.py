"""The served package as clients may know it."""

from dataclasses import dataclass

from serving.guard.errors import ErrorType, ServingError


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Description of the served package; contains no path.

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

    def require_name(self, name: str | None) -> None:
        """Accept the package by name or pinned reference; no name means the served one.

        Raises:
            ServingError: another name.
        """
        if name not in (None, self.name, self.ref):
            message = f"That model is not served here; {self.name} is."
            raise ServingError(ErrorType.NOT_FOUND, message)

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
