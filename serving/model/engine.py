"""A package as it is served: a `Predictor` and the card that describes it. No Ray.

A package with a graph runs in ONNX Runtime and loads no torch.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference.batching import Outputs, run_sorted
from orchestrator.inference.embedding_reader import EmbeddingReader
from orchestrator.inference.heads import default_head, package_tasks, require_head
from orchestrator.inference.inputs import Item, TextReader, Tokens
from orchestrator.inference.models import EMBEDDING, TorchModel
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.config import read_config
from orchestrator.tasks.base import AnyTask
from orchestrator.zoo.suite import read_suite
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import SIMILARITY, ModelCard
from serving.model.files import image_file, rows_of_files, sound_file

if TYPE_CHECKING:
    from orchestrator.modeling.generation.config import GenerationConfig
    from orchestrator.zoo import Package

READS = {"text": "text", "vision": "image", "audio": "audio"}
"""Modality of a manifest → what `Rows` call it."""
TONE_RATE = 16_000
"""Samples per second of the recording that a package is tried with."""
TOKENIZER = "tokenizer.json"


class Engine:
    """A loaded package.

    Attributes:
        card: What clients may know about it.
        predictor: Runs the model.
    """

    def __init__(self, card: ModelCard, predictor: Predictor) -> None:
        self.card, self.predictor = card, predictor

    @property
    def sound_rate(self) -> int:
        """Samples per second of the recordings that it reads; 0: it reads none."""
        sound = getattr(self.predictor.processor, "sound", None)
        return 0 if sound is None else int(sound.rate)

    @property
    def reader(self) -> TextReader:
        """Its tokenizer.

        Raises:
            ServingError: The package reads no texts.
        """
        if self.predictor.reader is None or self.card.reads != "text":
            message = f"{self.card.name} reads {self.card.reads}, no texts."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        return self.predictor.reader

    @property
    def embedding_reader(self) -> EmbeddingReader:
        """Its tokenizer for embeddings, as the package states them."""
        assert self.predictor.embedding_reader is not None
        return self.predictor.embedding_reader

    def run(self, sequences: Sequence[Tokens], wanted: Collection[str]) -> Outputs:
        """Run the model once."""
        return self.predictor.run(sequences, wanted)

    def continue_prompt(
        self,
        batch: Mapping[str, AnyArray],
        head: str,
        config: "GenerationConfig",
        watch: Callable[[Any, Any], None],
    ) -> None:
        """Continue a prompt; ``watch`` gets each new token. Only of torch packages."""
        assert isinstance(self.predictor.model, TorchModel)
        self.predictor.model.generate(batch, head, config, watch)

    def outputs(self, texts: Sequence[str], wanted: Collection[str] | None = None) -> Outputs:
        """Return raw outputs for texts; too long ones are cut.

        Args:
            texts: At least one.
            wanted: Names of targets, and ``embedding``; None: all.
        """
        run = [name for name, task in self.card.tasks.items() if not task.writes_text]
        if self.card.reads != "text":
            return self._outputs_of_files(run)
        names = (*run, EMBEDDING) if wanted is None else wanted
        encoded = self.reader.encode([Item(text) for text in texts])
        sequences = [sequence for item in encoded for sequence in item.sequences]
        return run_sorted(sequences, names, self.run, lambda lengths: [len(lengths)])

    def _outputs_of_files(self, names: Sequence[str]) -> Outputs:
        """Return raw outputs for a plain image or a tone; what is written is only tried."""
        tone = np.sin(np.arange(TONE_RATE // 2, dtype=np.float32) / 10) / 2
        shade = np.full((64, 64, 3), 128, dtype=np.uint8)
        is_image = self.card.reads == "image"
        content = image_file(shade) if is_image else sound_file(tone, TONE_RATE)
        rows = rows_of_files([content], self.card.reads)
        for head in set(self.card.tasks) - set(names):
            self.predictor.answers(rows, head)
        tasks = self.card.tasks
        return {head: self.predictor.outputs(rows, tasks[head]).logits for head in names}


def require_served(package: "Package", target: str | None = None) -> dict[str, AnyTask]:
    """Return the tasks of a package; loads no model.

    Args:
        package: From `orchestrator.zoo.Zoo.get`.
        target: Target answered by default; None: the one that the package was made for.

    Raises:
        InputError: The package has no such target, or its inputs come in no request.
        IntegrityError: Its files do not fit together.
    """
    tasks, stated = package_tasks(package), package.manifest.task
    modality = "text" if stated is None else stated.modality
    if modality not in READS:
        raise InputError(f"{package.ref} reads {modality}; {', '.join(READS)} can be served.")
    if modality == "text" and not (package.path / TOKENIZER).is_file():
        raise IntegrityError(f"{package.ref} reads text and holds no {TOKENIZER}.")
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
        InputError: The package has no such target, or its inputs come in no request.
        IntegrityError: Its files do not fit together.
    """
    all_tasks = require_served(package, target)
    predictor = Predictor.open(package, target=target, threads=threads, device=device)
    suite, stated = read_suite(package), package.manifest.task
    reads = "text" if stated is None else READS[stated.modality]
    part = {"image": "picture", "audio": "sound"}.get(reads)
    if part is not None and getattr(predictor.processor, part, None) is None:
        raise InputError(f"{package.ref} reads {reads} and holds no processor for files of it.")
    served = {
        name: task
        for name, task in predictor.tasks.items()
        if _is_served(package.path, task, predictor)
    }
    found: Outputs = {}
    if predictor.reader is not None and reads == "text":
        vectors = [EMBEDDING, *(name for name in served if served[name].kind() == SIMILARITY)]
        found = predictor.run(predictor.reader.encode([Item("a")])[0].sequences, vectors)
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
        reads=reads,
    )
    return Engine(card, predictor)


def _is_served(folder: Path, task: AnyTask, predictor: Predictor) -> bool:
    """Return whether the runtime writes what a task writes, or one run answers it."""
    if task.writes_text:
        return predictor.runtime == "torch"
    return read_config(folder).decoder is None
