"""Rows, samples and batches of the lessons of one run."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.processors.example_processor import RowProcessor
from orchestrator.data.randomness import derive_seed
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import SampleDataset
from orchestrator.data.steps import StepSource, eval_batches
from orchestrator.training.config import FineTuneOptions
from orchestrator.training.engines.engine import Batch
from orchestrator.training.finetune.lessons import Lesson, LessonSource

Split = Literal["train", "validation", "test"]
SHORT_PASS = 8
"""Rows of a pass that is cut to save padding. Of CoNLL-2003's sentences, 63 % of a batch of 32 are
padding; of its four passes of 8 rows of about one length, 24 %."""


class LessonData:
    """The data of several lessons, read by one model.

    Attributes:
        lessons: What is learned.
        processor: The package's tokenizer, or its processors of images and sounds; None: it has
            none, as models of images in arrays.
        max_length: Tokens a text is cut to.
        global_batch_size: Rows of a step, G: as configured, or all there are where the smallest
            lesson has fewer; a multiple of the number of ranks.
        micro_batch_size: Rows of one pass of one rank.
        steps_per_epoch: Optimizer steps in which every lesson is learned once, on average.

    Args:
        lessons: See above.
        processor: See above.
        config: Caps and batch sizes.
        max_length: See above.
        seed: Decides which rows a cap keeps, and their order.
        world: Number of ranks that share a batch.
        micro_batch_size: The most rows of one pass; None: a rank's share of the batch.
        short_passes: Without a `micro_batch_size`, cut a rank's share into passes of rows of about
            one length where all samples know theirs (not where the rows of a pass see each other).
    """

    def __init__(
        self,
        lessons: Sequence[Lesson],
        processor: RowProcessor | None,
        config: FineTuneOptions,
        max_length: int,
        seed: int,
        *,
        world: int = 1,
        micro_batch_size: int | None = None,
        short_passes: bool = False,
    ) -> None:
        self.lessons, self.processor, self.max_length = tuple(lessons), processor, max_length
        self._config, self._seed = config, seed
        self._samples: dict[tuple[int, Split], SampleDataset] = {}
        places = range(len(self.lessons))
        fewest = min(len(self.rows("train", index)) for index in places)
        share = max(1, min(config.global_batch_size, fewest) // world)
        lengths = [self._lengths("train", index) for index in places]
        self._short_passes = short_passes and all(each is not None for each in lengths)
        if self._short_passes:
            micro_batch_size = micro_batch_size or SHORT_PASS
        wanted = min(micro_batch_size or share, share)
        self.micro_batch_size = next(n for n in range(wanted, 0, -1) if share % n == 0)
        self.global_batch_size = share * world
        self._sources = [
            StepSource(
                self.samples("train", index),
                self.global_batch_size,
                self.micro_batch_size,
                # The first lesson's order is that of a run with one task.
                derive_seed(seed, "order", *([index] if index else [])) % 2**32,
                lengths=lengths[index],
            )
            for index in places
        ]
        self.steps_per_epoch = sum(source.steps_per_epoch for source in self._sources)

    def rows(self, split: Split, lesson: int = 0) -> Rows:
        """Return the rows of a split that are used: the same ones for every package."""
        rows = self.lessons[lesson].data.split(split)
        config = self._config
        limit = config.max_train_rows if split == "train" else config.max_eval_rows
        if limit is None or len(rows) <= limit:
            return rows
        seed = derive_seed(self._seed, "cap", split)
        return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit]))

    def samples(self, split: Split, lesson: int = 0) -> SampleDataset:
        """Return a split's samples, tokenized when first asked for and kept."""
        key = (lesson, split)
        if key not in self._samples:
            rows, asked = self.rows(split, lesson), self.lessons[lesson]
            samples = asked.task.samples(rows, self.processor, self.max_length)
            if split == "train" and asked.teacher is not None:
                samples = asked.teacher.teach(
                    asked.head, rows, samples, self.processor, self.max_length
                )
            self._samples[key] = samples
        return self._samples[key]

    def _lengths(self, split: Split, lesson: int) -> IntArray | None:
        """Return the tokens of each sample; None where samples have no such number."""
        return getattr(self.samples(split, lesson), "lengths", None)

    def source(self, max_steps: int) -> LessonSource:
        """Return the batches of each step of a run."""
        weights = [lesson.weight for lesson in self.lessons]
        return LessonSource(self._sources, weights, max_steps, derive_seed(self._seed, "lessons"))

    def batches(self, split: Split, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Return a rank's share of a split of every lesson, in order."""
        size = self._config.eval_batch_size
        if self._short_passes:  # no gradient, so no sum over passes: a few rows more than there
            size = min(size, 2 * SHORT_PASS)
        return chain.from_iterable(
            eval_batches(self.samples(split, index), size, rank, world, self._lengths(split, index))
            for index in range(len(self.lessons))
        )
