"""Mappers: a task applied to many inputs, in any order; and the job that the tasks belong to.

Inputs and results are models, so they may go to another process. ``in_turn`` works in this process;
``ray_data`` has another mapper.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from orchestrator.data.sharded.contracts import BuiltShard, PieceCounts, PieceTask, ShardTask
from orchestrator.data.sources.contents import Documents
from orchestrator.data.sources.opening import open_documents
from orchestrator.data.spec import CorpusConfig

Input = TypeVar("Input", PieceTask, ShardTask)
Result = TypeVar("Result", PieceCounts, BuiltShard)


class Mapper(Protocol):
    """Applies a task to inputs; results come in any order."""

    def __call__(
        self, task: Callable[[Input], Result], inputs: Sequence[Input]
    ) -> Iterable[Result]:
        """Yield the result of each input."""
        ...


Watch = Callable[[str, int, int, PieceCounts | BuiltShard], None]
"""Receives the step, the number of finished inputs, their total, and the newest result."""


def in_turn(task: Callable[[Input], Result], inputs: Sequence[Input]) -> Iterator[Result]:
    """Apply a task to each input in this process."""
    return map(task, inputs)


def no_watch(step: str, done: int, total: int, result: PieceCounts | BuiltShard) -> None:
    """Ignore progress."""


def with_progress(
    mapper: Mapper,
    watch: Watch,
    step: str,
    task: Callable[[Input], Result],
    inputs: Sequence[Input],
) -> list[Result]:
    """Apply a task to inputs and report progress; return the results in order of the inputs."""
    found: dict[int, Result] = {}
    for result in mapper(task, inputs):
        found[result.number] = result
        watch(step, len(found), len(inputs), result)
    return [found[each.number] for each in inputs]


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """Output folder and inputs of a corpus build; equal jobs read the same documents.

    Attributes:
        folder: Folder of the corpus, shared by all workers; its name identifies the documents.
        cache: Folder for parsed docstrings, shared by all workers.
        settings: The ``CorpusConfig`` as JSON.
        identity: Identity of each source, as JSON.
    """

    folder: str
    cache: str
    settings: str
    identity: str

    @property
    def config(self) -> CorpusConfig:
        """The settings of the corpus."""
        return CorpusConfig.model_validate_json(self.settings)

    def sources(self) -> tuple[Documents, ...]:
        """Return its sources; a worker opens them once."""
        return _sources(self)


@lru_cache(maxsize=2)
def _sources(job: CorpusJob) -> tuple[Documents, ...]:
    return tuple(open_documents(spec, Path(job.cache)) for spec in job.config.specs)
