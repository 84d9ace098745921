"""A package as a callable: texts in, named arrays out. No Ray.

``model.onnx`` runs in ONNX Runtime and loads no torch; other packages run in torch. Both see the
same padded batches, [B, S], and give logits [B, K] per classification target and ``embedding``
[B, D], the mean over the real positions of the encoder's output.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from orchestrator.errors import InputError, IntegrityError
from serving.model.batching import Encoded, Operation, Outputs, Work, pad, run_batch
from serving.model.card import ModelCard
from serving.model.tokenize import TextInput, TextTokenizer, Token

if TYPE_CHECKING:
    from orchestrator.zoo import Package
    from orchestrator.zoo.manifest import Task

EMBEDDING: Final = "embedding"
ONNX_FILE: Final = "model.onnx"


class Backend(Protocol):
    """A loaded model."""

    name: str
    dtype: str
    max_length: int
    embedding_size: int
    targets: dict[str, int]
    """Classification target -> number of classes K."""

    def run(self, batch: dict[str, np.ndarray], operation: Operation) -> Outputs:
        """Run padded arrays, each [B, S]."""


class Engine:
    """A loaded package: tokenizer, model, names of the classes.

    Args:
        card: what clients may know about it.
        tokenizer: text to ids.
        backend: ids to arrays.
    """

    def __init__(self, card: ModelCard, tokenizer: TextTokenizer, backend: Backend) -> None:
        self.card = card
        self._tokenizer = tokenizer
        self._backend = backend

    def encode(self, inputs: Sequence[TextInput], *, truncate: bool) -> list[Encoded]:
        """Tokenize.

        Raises:
            TooLongError: an input is too long and ``truncate`` is false.
        """
        return self._tokenizer.encode(inputs, truncate=truncate)

    def tokens(self, text: str, *, special: bool = True) -> list[Token]:
        """Return the tokens of one text with their places in it."""
        return self._tokenizer.tokens(text, special=special)

    def run(self, inputs: Sequence[Encoded], operation: Operation) -> Outputs:
        """Run the model once over all inputs; one row per input."""
        return self._backend.run(pad(inputs), operation)

    def answer(self, texts: Sequence[str], operation: Operation = "predict") -> Outputs:
        """Return logits per target, or embeddings, of texts; too long ones are cut."""
        encoded = self.encode([TextInput(text) for text in texts], truncate=True)
        tokens = max(len(item) for item in encoded) * len(encoded)
        return run_batch([Work(operation, encoded)], self.run, tokens)[0]


def load_engine(
    package: "Package", *, target: str | None = None, threads: int = 1, device: str = "cpu"
) -> Engine:
    """Load a verified package.

    Args:
        package: from `orchestrator.zoo.Zoo.get`.
        target: classification target answered by default; None takes the first.
        threads: threads of the model.
        device: ``cpu`` or a CUDA device, for torch packages.

    Raises:
        InputError: the package does not read text, or has no such target.
        IntegrityError: its files do not fit together.
    """
    folder = Path(package.path)
    task = package.manifest.task
    if task is not None and task.modality != "text":
        raise InputError(
            f"{package.ref} reads {task.modality}, not text. Only text packages can be served."
        )
    backend: Backend
    if (folder / ONNX_FILE).is_file():
        from serving.model.onnx_backend import OnnxBackend

        backend = OnnxBackend(folder, threads)
    else:
        from serving.model.torch_backend import TorchBackend

        backend = TorchBackend(folder, threads, device)
    longest = None if task is None else task.max_length
    tokenizer = TextTokenizer(folder, backend.max_length, longest)
    card = _card(package, backend, task, tokenizer.max_length, target)
    return Engine(card, tokenizer, backend)


def _card(
    package: "Package",
    backend: Backend,
    task: "Task | None",
    max_length: int,
    target: str | None,
) -> ModelCard:
    labels = {} if task is None else task.labels
    targets = {
        name: _labels(package.ref, name, count, labels.get(name, []))
        for name, count in backend.targets.items()
    }
    if target is not None and target not in targets:
        offered = ", ".join(targets) or "none"
        raise InputError(f"target: {package.ref} has no '{target}'. Its targets: {offered}.")
    return ModelCard(
        name=package.name,
        version=package.version,
        digest=package.manifest_sha256,
        backend=backend.name,
        dtype=backend.dtype,
        targets=targets,
        default_target=target or next(iter(targets), None),
        takes_pairs=task is not None and bool((task.model_extra or {}).get("pairs")),
        max_length=max_length,
        embedding_size=backend.embedding_size,
    )


def _labels(ref: str, name: str, count: int, labels: list[str]) -> tuple[str, ...]:
    if not labels:  # the convention of Hugging Face for unnamed classes
        return tuple(f"LABEL_{index}" for index in range(count))
    if len(labels) != count:
        raise IntegrityError(
            f"{ref}: target '{name}' has {count} classes, its manifest names {len(labels)}."
        )
    return tuple(labels)
