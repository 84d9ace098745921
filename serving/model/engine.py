"""A package as it is served: a `Predictor` and the card that describes it. No Ray.

A package with a graph runs in ONNX Runtime and loads no torch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference.batching import Outputs, run_sorted
from orchestrator.inference.heads import default_head, package_tasks, require_head
from orchestrator.inference.inputs import Item, TextReader, Tokens
from orchestrator.inference.models import EMBEDDING
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.config import read_config
from orchestrator.tasks.base import AnyTask
from orchestrator.zoo.suite import read_suite
from serving.model.card import SIMILARITY, ModelCard

if TYPE_CHECKING:
    from orchestrator.zoo import Package

READ: frozenset[str] = frozenset({"text", "pair", "choices"})
"""Forms of an item that a request can hold."""

TOKENIZER = "tokenizer.json"


class Engine:
    """A loaded package.

    Attributes:
        card: What clients may know about it.
        predictor: Runs the model.
        reader: Its tokenizer.
        embedding_reader: Its tokenizer for embeddings, as the package states them.
    """

    def __init__(self, card: ModelCard, predictor: Predictor, reader: TextReader) -> None:
        self.card, self.predictor, self.reader = card, predictor, reader
        assert predictor.embedding_reader is not None
        self.embedding_reader = predictor.embedding_reader

    def run(self, sequences: Sequence[Tokens], wanted: Collection[str]) -> Outputs:
        """Run the model once."""
        return self.predictor.run(sequences, wanted)

    def outputs(self, texts: Sequence[str], wanted: Collection[str] | None = None) -> Outputs:
        """Return raw outputs for texts; too long ones are cut.

        Args:
            texts: At least one.
            wanted: Names of targets, and ``embedding``; None: all.
        """
        names = (*self.card.tasks, EMBEDDING) if wanted is None else wanted
        encoded = self.reader.encode([Item(text) for text in texts])
        sequences = [sequence for item in encoded for sequence in item.sequences]
        return run_sorted(sequences, names, self.run, lambda lengths: [len(lengths)])


def require_served(package: "Package", target: str | None = None) -> dict[str, AnyTask]:
    """Return the tasks of a package that reads text; loads no model.

    Args:
        package: From `orchestrator.zoo.Zoo.get`.
        target: Target answered by default; None: the one that the package was made for.

    Raises:
        InputError: The package does not read text, or has no such target.
        IntegrityError: Its files do not fit together.
    """
    tasks, stated = package_tasks(package), package.manifest.task
    if stated is not None and stated.modality != "text":
        kinds = ", ".join(dict.fromkeys(task.kind() for task in tasks.values()))
        raise InputError(
            f"{package.ref} reads {stated.modality}, not text"
            f"{f' (it answers {kinds})' if kinds else ''}. Only text packages can be served."
        )
    if not (package.path / TOKENIZER).is_file():
        raise IntegrityError(
            f"{package.ref} holds no {TOKENIZER}: only packages that read text can be served."
        )
    if target is not None:
        require_head(package.ref, tasks, None, target)
    return tasks


def load_engine(
    package: "Package", *, target: str | None = None, threads: int = 1, device: str = "cpu"
) -> Engine:
    """Load a verified package.

    Args:
        package: From `orchestrator.zoo.Zoo.get`.
        target: Target answered by default; None: the one that the package was made for.
        threads: Threads of the model.
        device: ``cpu`` or a CUDA device, for torch packages.

    Raises:
        InputError: The package does not read text, or has no such target.
        IntegrityError: Its files do not fit together.
    """
    all_tasks = require_served(package, target)
    predictor = Predictor.open(package, target=target, threads=threads, device=device)
    reader = predictor.reader
    assert reader is not None
    served = {
        name: task for name, task in predictor.tasks.items() if _is_served(package.path, task)
    }
    vectors = [EMBEDDING, *(name for name in served if served[name].kind() == SIMILARITY)]
    found = predictor.run(reader.encode([Item("a")])[0].sequences, vectors)
    suite, stated = read_suite(package), package.manifest.task
    card = ModelCard(
        name=package.name,
        version=package.version,
        digest=package.manifest_sha256,
        backend=predictor.runtime,
        dtype=predictor.dtype,
        tasks=served,
        unserved={name: task.kind() for name, task in all_tasks.items() if name not in served},
        metrics={}
        if suite is None
        else {name: exam.metrics for name, exam in suite.exams.items() if name in served},
        default_target=target or default_head(package, served),
        takes_pairs=stated is not None and bool((stated.model_extra or {}).get("pairs")),
        max_length=predictor.max_length,
        embedding_sizes={name: len(rows[0]) for name, rows in found.items()},
        stated=None if predictor.embedding_reader is None else predictor.embedding_reader.statement,
    )
    return Engine(card, predictor, reader)


def _is_served(folder: Path, task: AnyTask) -> bool:
    """Return whether a request can hold what a task reads, and one run answers it."""
    reads = bool(READ & task.modalities) and not task.writes_text
    return reads and read_config(folder).decoder is None
