"""A package as a callable: rows in, answers out, in the order of the rows.

Rows are run in batches of similar length, bounded by tokens, so that little is padded. The answer
to a row does not depend on the rows it is batched with.

Shapes: N rows, B rows of a batch, S tokens of the longest, K outputs, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array, IntArray
from orchestrator.data.processors.readings import Reading, read_texts, read_words
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import WORD_BREAK, Rows
from orchestrator.errors import InputError, StageError
from orchestrator.inference.heads import default_head, package_tasks, require_head
from orchestrator.inference.models import EMBEDDING, LoadedModel, load_folder
from orchestrator.tasks.base import Answer, AnyTask
from orchestrator.tasks.measure import Measured, measure

if TYPE_CHECKING:
    from orchestrator.zoo.package import Package

BATCH_TOKENS = 4096
"""Tokens of one run, padding included."""

BATCH_IMAGES = 64
"""Images of one run."""

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
    """

    def __init__(
        self,
        model: LoadedModel,
        processor: TextProcessor | None,
        tasks: dict[str, AnyTask],
        *,
        default: str | None = None,
        ref: str = "the model",
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._model, self._processor = model, processor
        self._batch_tokens = batch_tokens
        self.ref, self.tasks, self.default = ref, tasks, default
        limits = [model.max_length, max_length, processor and processor.max_length]
        self.max_length = min(limit for limit in limits if limit)

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
        model = load_folder(package.path, threads=threads, device=device, keep=tasks)
        has_tokenizer = (package.path / "tokenizer.json").is_file()
        processor = TextProcessor.load(package.path) if has_tokenizer else None
        stored = package.manifest.task
        limits = [limit for limit in (max_length, stored and stored.max_length) if limit]
        return cls(
            model,
            processor,
            {name: task for name, task in tasks.items() if name in model.heads},
            default=default,
            ref=package.ref,
            max_length=min(limits, default=None),
        )

    @property
    def runtime(self) -> str:
        """What runs the model."""
        return self._model.runtime

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
        found = self.outputs(rows, task, progress=progress)
        answers: list[Answer] = task.answers(found.logits, found.readings)
        return answers

    def embed(self, rows: Rows, progress: Progress | None = None) -> Float32Array:
        """Return one vector per row, [N, D].

        Raises:
            InputError: The rows are not what the model reads.
        """
        found = self.outputs(rows, None, embeddings=True, progress=progress).embeddings
        assert found is not None
        return found

    def measure(self, rows: Rows, head: str | None = None) -> Measured:
        """Answer rows and compute every metric of the answers."""
        return measure(self.task(head), rows, self.answers(rows, head))

    def outputs(
        self,
        rows: Rows,
        task: AnyTask | None,
        *,
        embeddings: bool = False,
        progress: Progress | None = None,
    ) -> Outputs:
        """Run rows through the model.

        Args:
            rows: The rows; labels are not read.
            task: Whose outputs are wanted; None: embeddings only.
            embeddings: Return embeddings too.
            progress: Told about finished rows.
        """
        wanted = ([task.head] if task else []) + ([EMBEDDING] if embeddings else [])
        logits: list[AnyArray | None] = [None] * len(rows)
        vectors: list[AnyArray | None] = [None] * len(rows)
        readings: list[Reading | None] = [None] * len(rows)
        for places, batch, read in self._batches(rows, task):
            found = self._model.run(batch, wanted)
            self._require_finite(found)
            mask = batch.get("attention_mask")
            for row, place in enumerate(places):
                if task is not None:
                    output = found[task.head][row]
                    if mask is not None and output.ndim > 1:  # one row of outputs per token
                        output = output[mask[row] > 0]
                    logits[place] = output
                if embeddings:
                    vectors[place] = found[EMBEDDING][row]
                if read is not None:
                    readings[place] = read[row]
            if progress is not None:
                progress(len(places))
        return Outputs(
            [value for value in logits if value is not None],
            np.stack([value for value in vectors if value is not None]) if embeddings else None,
            [value for value in readings if value is not None]
            if task is not None and task.needs_reading
            else None,
        )

    def _batches(
        self, rows: Rows, task: AnyTask | None
    ) -> Iterator[tuple[IntArray, dict[str, AnyArray], list[Reading] | None]]:
        """Yield places of rows, their arrays, and how they were read; shortest texts first."""
        if rows.images is not None:
            for places in np.array_split(
                np.arange(len(rows)), max(1, -(-len(rows) // BATCH_IMAGES))
            ):
                yield places, {"pixel_values": rows.images[places]}, None
            return
        if self._processor is None:
            raise InputError(f"{self.ref} reads images, the rows are texts.")
        order = np.argsort([_characters(rows, i) for i in range(len(rows))], kind="stable")
        start = 0
        while start < len(order):
            places, arrays, read = self._tokenized(rows, order, start, task)
            yield places, arrays, read
            start += len(places)

    def _tokenized(
        self, rows: Rows, order: IntArray, start: int, task: AnyTask | None
    ) -> tuple[IntArray, dict[str, AnyArray], list[Reading] | None]:
        """Tokenize the next rows: as many as fit into a run, by the length of the longest."""
        assert self._processor is not None
        # No text has more tokens than characters and special tokens, or than the limit.
        longest = min(_characters(rows, order[start]) + 8, self.max_length)
        size = max(1, self._batch_tokens // max(longest, 1))
        places = order[start : start + size]
        texts = [rows.texts[i] for i in places]
        pairs = None if rows.pairs is None else [rows.pairs[i] for i in places]
        read: list[Reading] | None = None
        if task is not None and task.needs_reading:
            if any(WORD_BREAK in text for text in texts):
                words = [text.split(WORD_BREAK) for text in texts]
                arrays, read = read_words(self._processor, words, self.max_length)
            else:
                arrays, read = read_texts(self._processor, texts, pairs, self.max_length)
        else:
            arrays = self._processor.arrays(texts, pairs, self.max_length, "right")
        tokens = arrays["attention_mask"].sum(axis=1)
        # Later rows of this piece may be longer than the first: keep those that fit.
        widths = np.maximum.accumulate(tokens) * np.arange(1, len(places) + 1)
        fits = max(1, int((widths <= self._batch_tokens).sum()))
        longest = int(tokens[:fits].max())
        cut = {name: array[:fits, :longest] for name, array in arrays.items()}
        return places[:fits], cut, None if read is None else read[:fits]

    def _require_finite(self, found: dict[str, Float32Array]) -> None:
        wrong = [name for name, values in found.items() if not np.isfinite(values).all()]
        if wrong:
            raise StageError(
                f"{self.ref}: outputs {', '.join(wrong)} are not finite. The package is damaged, "
                "or its precision is too low."
            )


def _characters(rows: Rows, index: int) -> int:
    pair = 0 if rows.pairs is None else len(rows.pairs[index])
    return len(rows.texts[index]) + pair


def rows_of_texts(texts: Sequence[str], pairs: Sequence[str] | None = None) -> Rows:
    """Return rows without labels, for answering alone."""
    labels = np.zeros(len(texts), dtype=np.int64)
    return Rows(list(texts), None if pairs is None else list(pairs), labels)
