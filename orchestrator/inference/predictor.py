"""A package as a callable: rows in, answers out, in the order of the rows.

Rows are sorted by length and run as `dispatch` cuts them, so that little is padded. The answer to a
row does not depend on the rows it is batched with.

Shapes: N rows, S tokens of a row, K outputs, D width.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array, IntArray
from orchestrator.data.prefetch import Ahead
from orchestrator.data.processors.example_processor import RowProcessor, open_processor
from orchestrator.data.processors.readings import Reading
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError, IntegrityError, StageError
from orchestrator.inference.batching import Outputs as SequenceOutputs
from orchestrator.inference.batching import pad, run_sorted, unpadded
from orchestrator.inference.embedding_reader import EmbeddingReader
from orchestrator.inference.heads import default_head, package_tasks, require_head
from orchestrator.inference.inputs import TextReader, Tokens, items_of_rows, joined, sorted_blocks
from orchestrator.inference.models import EMBEDDING, LoadedModel, load_folder
from orchestrator.inference.writing import media_batches, written_texts
from orchestrator.modeling.sentence.statement import read_statement
from orchestrator.tasks.base import Answer, AnyTask, text_processor

if TYPE_CHECKING:
    from orchestrator.modeling.sentence.statement import SentenceEmbedding
    from orchestrator.tasks.measure import Measured
    from orchestrator.zoo.package import Package

BATCH_TOKENS = 4096
"""Tokens of one run, padding included."""

Progress = Callable[[int], None]
"""Told how many rows have been answered since the last call."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """Raw outputs for N rows, in their order.

    Attributes:
        logits: Of each row [K], or [S, K] of a head that answers for tokens.
        embeddings: [N, D], if they were wanted.
        readings: How each row was read, if the task needs it.
    """

    logits: list[AnyArray]
    embeddings: Float32Array | None
    readings: list[Reading] | None


class Predictor:
    """A loaded model with its tokenizer and its tasks.

    Attributes:
        ref: What messages call it.
        tasks: Tasks by the name of their head.
        default: Head that answers where none is named; None: it must be named.
        max_length: Limit in tokens; longer texts are cut.
        model: The loaded model.
        processor: Reader of its rows; None: it has none.
        reader: Its tokenizer with that limit; None: it reads no text.
        embedding_reader: The same for embeddings, as the package states them.
        dispatch: Rule that says which sequences share a run.
    """

    def __init__(
        self,
        model: LoadedModel,
        processor: RowProcessor | None,
        tasks: dict[str, AnyTask],
        *,
        default: str | None = None,
        ref: str = "the model",
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        statement: "SentenceEmbedding | None" = None,
    ) -> None:
        self.model, self.processor = model, processor
        self._batch_tokens, self.dispatch = batch_tokens, model.dispatch
        self.ref, self.tasks, self.default = ref, tasks, default
        words = text_processor(processor)
        limits = [model.max_length, max_length, words and words.max_length]
        self.max_length = min(limit for limit in limits if limit)
        self.reader = None if words is None else TextReader(words, self.max_length)
        self._states_vectors = statement is not None
        self.embedding_reader: EmbeddingReader | None = None
        if self.reader is not None:
            self.embedding_reader = EmbeddingReader(self.reader, statement, model.max_length)
        self._pad_id = 0 if words is None else words.settings.pad_id

    @classmethod
    def open(
        cls,
        package: "Package",
        *,
        target: str | None = None,
        threads: int = 1,
        device: str = "cpu",
        max_length: int | None = None,
    ) -> "Predictor":
        """Load a verified package.

        Args:
            package: From ``Zoo.get``.
            target: Head to answer with; None: the one that the package was made for.
            threads: Threads within one run.
            device: Where a torch model goes.
            max_length: Limit in tokens, if smaller than the model's.

        Raises:
            InputError: The package has no such head.
            IntegrityError: Its files do not fit together.
        """
        tasks = package_tasks(package)
        default = default_head(package, tasks)
        if target is not None:
            default = require_head(package.ref, tasks, default, target).head
        stored = package.manifest.task
        limits = [limit for limit in (max_length, stored and stored.max_length) if limit]
        predictor = cls.open_folder(
            package.path,
            tasks,
            default=default,
            ref=package.ref,
            threads=threads,
            device=device,
            max_length=min(limits, default=None),
        )
        if max_length is not None and predictor.embedding_reader is not None:
            predictor.embedding_reader.limit(max_length)
        return predictor

    @classmethod
    def open_folder(
        cls,
        folder: Path,
        tasks: dict[str, AnyTask],
        *,
        default: str | None = None,
        ref: str = "the draft",
        threads: int = 1,
        device: str = "cpu",
        max_length: int | None = None,
    ) -> "Predictor":
        """Load the files of a package that may not be committed yet.

        Args:
            folder: Folder with the files of a package.
            tasks: Tasks by the name of their head.
            default: Head that answers where none is named.
            ref: What messages call it.
            threads: Threads within one run.
            device: Where a torch model goes.
            max_length: Limit in tokens, if smaller than the model's.

        Raises:
            IntegrityError: The files do not fit together.
        """
        model = load_folder(folder, threads=threads, device=device, keep=tasks)
        try:
            processor = open_processor(folder)
        except InputError as error:
            raise IntegrityError(f"{ref}: {error}") from error
        return cls(
            model,
            processor,
            {name: task for name, task in tasks.items() if name in model.heads},
            default=default,
            ref=ref,
            max_length=max_length,
            statement=read_statement(folder),
        )

    @property
    def runtime(self) -> str:
        """Runtime of the model."""
        return self.model.runtime

    @property
    def dtype(self) -> str:
        """Number format of the weights."""
        return self.model.dtype

    def cut(self, lengths: Sequence[int]) -> list[int]:
        """Return the number of sequences of each run; see `Dispatch.cut`."""
        return self.dispatch.cut(lengths, self._batch_tokens)

    def task(self, head: str | None = None) -> AnyTask:
        """Return the task of a head; None: of the default one.

        Raises:
            InputError: There is no such head, or none is named and nothing says which.
        """
        return require_head(self.ref, self.tasks, self.default, head)

    def answers(
        self, rows: Rows, head: str | None = None, progress: Progress | None = None
    ) -> list[Answer]:
        """Answer rows with a head.

        Raises:
            InputError: The rows are not what the model reads, or there is no such head.
            StageError: An output is not finite.
        """
        task = self.task(head)
        if rows.modality not in task.modalities:
            raise InputError(
                f"{self.ref}: head {task.head!r} answers rows of "
                f"{' or '.join(sorted(task.modalities))}, these are of {rows.modality}."
            )
        if task.writes_text:
            limit = self.max_length
            texts = written_texts(self.model, self.processor, task, rows, limit, progress)
            written: list[Answer] = task.written(texts)
            return written
        found = self.outputs(rows, task, progress=progress)
        answers: list[Answer] = task.answers(found.logits, found.readings)
        return answers

    def embed(
        self, rows: Rows, progress: Progress | None = None, prompt: str | None = None
    ) -> Float32Array:
        """Return one vector per row, [N, D].

        Args:
            rows: The rows.
            progress: Told about finished rows.
            prompt: Name of a prompt that the package states; None: the default one; an empty name:
                no prompt.

        Raises:
            InputError: The rows are not what the model reads, or the prompt is unknown.
        """
        found = self.outputs(
            rows, None, embeddings=True, progress=progress, prompt=prompt
        ).embeddings
        assert found is not None
        return found

    def measure(self, rows: Rows, head: str | None = None) -> "Measured":
        """Answer rows and compute every metric of the answers."""
        from orchestrator.tasks.measure import (
            measure,  # loads scipy.stats, which serving never needs
        )

        return measure(self.task(head), rows, self.answers(rows, head))

    def outputs(
        self,
        rows: Rows,
        task: AnyTask | None,
        *,
        embeddings: bool = False,
        progress: Progress | None = None,
        prompt: str | None = None,
    ) -> Outputs:
        """Run rows through the model.

        Args:
            rows: The rows; labels are not read.
            task: Whose outputs are wanted; None: embeddings only.
            embeddings: Return embeddings too.
            progress: Told about finished rows.
            prompt: Name of the embeddings' prompt; see `embed`.

        Raises:
            InputError: The rows are not what the model reads.
        """
        if embeddings and task is not None and self._states_vectors:
            vectors = self.embed(rows, prompt=prompt)
            return replace(self.outputs(rows, task, progress=progress), embeddings=vectors)
        wanted = ([task.head] if task else []) + ([EMBEDDING] if embeddings else [])
        outputs: dict[str, list[AnyArray]] = {name: [np.empty(0)] * len(rows) for name in wanted}
        readings: list[Reading | None] = [None] * len(rows)
        for places, found, read in self._blocks(rows, task, wanted, prompt):
            for row, place in enumerate(places):
                for name in wanted:
                    outputs[name][place] = found[name][row]
                readings[place] = read[row]
            if progress is not None:
                progress(len(places))
        return Outputs(
            outputs[task.head] if task else [],
            np.stack(outputs[EMBEDDING]) if embeddings else None,
            [reading for reading in readings if reading is not None]
            if task is not None and task.needs_reading
            else None,
        )

    def run(self, sequences: Sequence[Tokens], wanted: Collection[str]) -> SequenceOutputs:
        """Run the model once.

        Args:
            sequences: From ``reader.encode``; padded here.
            wanted: Names of heads, and ``embedding``.

        Raises:
            StageError: An output is not finite.
        """
        found = self.model.run(pad(sequences, self._pad_id), wanted)
        self._require_finite(found)
        return {name: unpadded(found[name], sequences) for name in wanted}

    def _blocks(
        self, rows: Rows, task: AnyTask | None, wanted: Collection[str], prompt: str | None
    ) -> Iterator[tuple[IntArray, SequenceOutputs, Sequence[Reading | None]]]:
        """Yield places of rows, their outputs, and how they were read; shortest texts first."""
        if rows.images is not None or rows.media:
            with Ahead(media_batches(rows, self.processor)) as batches:
                for places, arrays in batches:
                    found = self.model.run(arrays, wanted)
                    self._require_finite(found)
                    yield places, {n: list(found[n]) for n in wanted}, [None] * len(places)
            return
        if self.reader is None or self.embedding_reader is None:
            raise InputError(f"{self.ref} reads images or sounds, the rows are texts.")
        items = items_of_rows(rows, task)
        if task is None:
            blocks = sorted_blocks(items, partial(self.embedding_reader.encode, prompt=prompt))
        else:
            blocks = sorted_blocks(items, partial(self.reader.encode, task=task))
        with Ahead(blocks) as made:
            for places, encoded in made:
                sequences = [sequence for item in encoded for sequence in item.sequences]
                if EMBEDDING in wanted and len(sequences) > len(encoded):
                    raise InputError(
                        f"{self.ref}: rows of {task and task.head!r} are several sequences each, "
                        "which have no common embedding. Ask for answers alone."
                    )
                outputs = run_sorted(sequences, wanted, self.run, self.cut)
                joint = {name: joined(encoded, each) for name, each in outputs.items()}
                yield places, joint, [item.reading for item in encoded]

    def _require_finite(self, found: dict[str, Float32Array]) -> None:
        wrong = [name for name, values in found.items() if not np.isfinite(values).all()]
        if wrong:
            raise StageError(
                f"{self.ref}: outputs {', '.join(wrong)} are not finite. The package is damaged, "
                "or its precision is too low."
            )
