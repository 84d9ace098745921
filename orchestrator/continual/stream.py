"""Tasks of a stream: their data, their heads, and the units in which they are learned.

Scenario: task-incremental. Every task has a head of its own, named after it, and the task is known
when it is tested. All heads exist from the start; a head that is not trained does not move.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.continual.config import ContinualConfig
from orchestrator.continual.promised import Promised, read_promised, unprotected
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import derive_seed
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.samples.base import SampleDataset
from orchestrator.data.samples.labelled_samples import ClsSamples
from orchestrator.data.sources.opening import load_task
from orchestrator.data.steps import StepSource
from orchestrator.errors import InputError
from orchestrator.modeling.package import read_config
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig
from orchestrator.tasks.base import kind_of_target
from orchestrator.tasks.suite import Learned
from orchestrator.training.engines.engine import Batch
from orchestrator.training.finetune.heads import classification_head
from orchestrator.training.loop import WindowSource
from orchestrator.zoo.package import Package
from orchestrator.zoo.suite import Suite, read_suite

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One stretch of training: one task, or all of them (joint).

    Attributes:
        index: Place in the stream.
        title: Name in messages and folders.
        tasks: Indices of the tasks that are trained.
        seen: Indices of the tasks that are tested afterwards.
        steps: Optimizer steps.
    """

    index: int
    title: str
    tasks: tuple[int, ...]
    seen: tuple[int, ...]
    steps: int


def units_of(config: ContinualConfig) -> list[Unit]:
    """Return the units of a stream in order; joint training has one, with the steps of all."""
    count, steps = len(config.tasks), config.train.max_steps
    if config.method.preset == "joint":
        everything = tuple(range(count))
        return [Unit(0, "joint", everything, everything, steps * count)]
    return [
        Unit(i, task.title, (i,), tuple(range(i + 1)), steps) for i, task in enumerate(config.tasks)
    ]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Several tasks in turn: step t is the next step of task ``t mod T``.

    The samples are those that learning the tasks one after the other would use, in another order.
    """

    sources: Sequence[WindowSource]

    def window(self, step: int, rank: int, world: int) -> list[Batch]:
        """Return the window of the task whose turn it is."""
        turn, index = divmod(step, len(self.sources))
        return self.sources[index].window(turn, rank, world)

    def epoch(self, step: int) -> float:
        """Return the epoch of the first task."""
        return self.sources[0].epoch(step // len(self.sources))


@dataclass
class Stream:
    """The loaded tasks.

    Attributes:
        config: The job.
        tasks: Rows of each task.
        processor: The package's tokenizer; None for images.
        max_length: Limit in tokens.
        promised: Tasks that the package promised and the stream does not learn.
    """

    config: ContinualConfig
    tasks: list[TaskData]
    processor: TextProcessor | None
    max_length: int
    promised: Mapping[str, Promised] = field(default_factory=dict)
    _samples: dict[tuple[int, Split], ClsSamples] = field(default_factory=dict)

    @classmethod
    def load(cls, config: ContinualConfig, package: Path) -> "Stream":
        """Read all tasks.

        Raises:
            InputError: A task cannot be read, or texts and images are mixed.
        """
        cache = None if config.cache is None else Path(config.cache)
        tasks = [load_task(task.spec, cache) for task in config.tasks]
        files = [task.name for task in tasks if task.train.media]
        if files:
            raise InputError(
                f"task {files[0]!r} has files of images or sounds, which the continual stage does "
                "not read yet; use finetune, or builtin:digits for images"
            )
        images = [task.train.images is not None for task in tasks]
        if any(images) and not all(images):
            raise InputError("the stream mixes texts and images; one model reads one of them")
        processor = None if all(images) else TextProcessor.load(package)
        longest = read_config(package).max_position_embeddings
        limit = min(config.max_length, longest)
        promised = read_promised(package, {task.title for task in config.tasks})
        return cls(config, tasks, processor, limit, promised)

    @property
    def titles(self) -> list[str]:
        """Names of the tasks and of their heads."""
        return [task.title for task in self.config.tasks]

    def heads(self, package: Path) -> list[TargetConfig]:
        """Return the heads of the model: those of the package, then one per new task.

        Heads of pre-training, which answer no labelled task, are left out.

        Raises:
            InputError: A task has the name of a head of another kind or with other labels.
        """
        new = {
            title: classification_head(
                task, self.config.pooling, dropout=self.config.dropout, name=title
            )
            for title, task in zip(self.titles, self.tasks, strict=True)
        }
        inherited: list[TargetConfig] = []
        for head in read_config(package).target:
            known = new.get(head.name)
            if known is None:
                if kind_of_target(head) is not None:
                    inherited.append(head)
            elif not isinstance(head, ClsConfig):
                raise InputError(
                    f"the package has a head {head.name!r} of type {head.type_name()}, which "
                    "learns no classes. Give the task of that name another name"
                )
            elif known.num_labels != head.num_labels:
                raise InputError(
                    f"the package has a head {head.name!r} with {head.num_labels} classes, the "
                    f"task of that name has {known.num_labels}. Give the task another name"
                )
            else:
                new[head.name] = head
        return [*inherited, *new.values()]

    def require_labels(self, package: Package) -> None:
        """Refuse a task whose labels are not those of the package's head of that name, in order.

        Raises:
            InputError: Naming both.
        """
        stated = {} if package.manifest.task is None else package.manifest.task.labels
        suite = read_suite(package) or Suite()
        known = {**stated, **{head: exam.task.labels for head, exam in suite.exams.items()}}
        for title, task in zip(self.titles, self.tasks, strict=True):
            names = tuple(known.get(title, ()))
            if names and names != task.label_names:
                raise InputError(
                    f"the package's head {title!r} answers {list(names)}, the task of that name "
                    f"has {list(task.label_names)}. Give the task another name, or its labels "
                    "the same names in the same order"
                )

    def learned(self) -> dict[str, Learned]:
        """Return the tasks with their data, for the exam, by the name of their head."""
        return {
            title: Learned.of_classes(title, data, task.spec)
            for title, data, task in zip(self.titles, self.tasks, self.config.tasks, strict=True)
        }

    def unwatched_heads(self, package: Path) -> list[str]:
        """Return heads of the package whose tasks are not in the stream."""
        return [head.name for head in self.heads(package) if head.name not in self.titles]

    def unprotected_heads(self, package: Path) -> list[str]:
        """Return heads of the package that nothing protects while the stream is learned."""
        heads = [head for head in self.heads(package) if head.name not in self.titles]
        return unprotected(package, heads, self.promised, self.config.method.used())

    def samples(self, task: int, split: Split) -> ClsSamples:
        """Return a split of a task; tokenized once, when first asked for."""
        key = (task, split)
        if key not in self._samples:
            self._samples[key] = self._tokenized(task, self.tasks[task].split(split))
        return self._samples[key]

    def source(self, unit: Unit) -> WindowSource:
        """Return the training windows of a unit."""
        train = self.config.train
        sizes = (train.global_batch_size, train.micro_batch_size)
        sources = [
            StepSource(self.samples(task, "train"), *sizes, self._order(task))
            for task in unit.tasks
        ]
        return sources[0] if len(sources) == 1 else Interleaved(sources)

    def buffer(self, task: int, indices: Sequence[int], world: int) -> StepSource:
        """Return rehearsal windows of a task.

        Args:
            task: Index of the task.
            indices: Its training rows to rehearse.
            world: Number of ranks; the batch is the largest they can share, at most the training
                batch, and no larger than the buffer where that is possible.
        """
        rows = self._tokenized(task, self.tasks[task].train.take(indices))
        return self._rehearsal(rows, world, self._order(task, "replay"))

    def promised_buffers(self, world: int) -> list[StepSource]:
        """Return rehearsal windows of each promised task that has exemplars; see ``buffer``."""
        return [
            self._rehearsal(samples, world, self._order(head, "exemplars"))
            for head, samples in self._exemplars.items()
        ]

    def promised_singles(self, count: int, known: Collection[str | None] = ()) -> list[Batch]:
        """Return about ``count`` exemplars of the promised tasks, equally many of each.

        One per batch, the same on every rank; none of the heads in ``known``.
        """
        batches = []
        wanted = {head: found for head, found in self._exemplars.items() if head not in known}
        for head, samples in wanted.items():
            seed = derive_seed(self.config.seed, "exemplars", head)
            share = -(-count // len(wanted))
            chosen = np.random.default_rng(seed).permutation(len(samples))[:share]
            batches += [samples.collate(np.asarray([index], np.int64), 0) for index in chosen]
        return batches

    @cached_property
    def _exemplars(self) -> dict[str, SampleDataset]:
        return {
            head: each.task.samples(each.exemplars, self.processor, self.max_length)
            for head, each in self.promised.items()
            if each.exemplars is not None
        }

    def _rehearsal(self, rows: SampleDataset, world: int, order: int) -> StepSource:
        train = self.config.train
        share = max(1, min(train.global_batch_size, len(rows)) // world)
        micro = next(m for m in range(min(share, train.micro_batch_size), 0, -1) if share % m == 0)
        return StepSource(rows, share * world, micro, order)

    def singles(self, task: int, count: int) -> Iterator[Batch]:
        """Yield ``count`` random training rows of a task, one per batch; the same on every rank."""
        samples = self.samples(task, "train")
        seed = derive_seed(self.config.seed, "fisher", task)
        chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
        for index in chosen:
            yield samples.collate(np.asarray([index], dtype=np.int64), 0)

    def _tokenized(self, task: int, rows: Rows) -> ClsSamples:
        return ClsSamples(rows, self.processor, self.titles[task], self.max_length)

    def _order(self, *purpose: int | str) -> int:
        return derive_seed(self.config.seed, "order", *purpose) % 2**32
