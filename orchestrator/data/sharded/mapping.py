"""How the pieces of a corpus are worked on: a task is applied to each row, in whatever order.

Rows and results are JSON data, so they may go to another process. The plain way is one after the
other, here; ``ray_data`` is another.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.data.documents import open_documents
from orchestrator.data.sources.contents import Documents
from orchestrator.data.spec import CorpusConfig

Row = dict[str, Any]
Task = Callable[[Row], Row]
Mapper = Callable[[Task, Sequence[Row]], Iterable[Row]]
"""Applies a task to rows; results come in any order."""
Watch = Callable[[str, int, int, Row], None]
"""Told the step, how many rows are done, how many there are, and the newest result."""


def in_turn(task: Task, rows: Sequence[Row]) -> Iterator[Row]:
    """Apply a task to each row in this process."""
    return map(task, rows)


def unwatched(step: str, done: int, total: int, result: Row) -> None:
    """Show nothing."""


def watched(mapper: Mapper, watch: Watch, step: str, task: Task, rows: Sequence[Row]) -> list[Row]:
    """Apply a task to rows and tell how far it is; returns the results by their number."""
    found: dict[int, Row] = {}
    for result in mapper(task, rows):
        found[result["number"]] = result
        watch(step, len(found), len(rows), result)
    return [found[row["number"]] for row in rows]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a corpus is made and of what; equal sites are the same documents.

    Attributes:
        folder: of the corpus, shared by all workers; its name says what the documents are.
        cache: for parsed docstrings, shared by all workers.
        settings: the ``CorpusConfig`` as JSON.
        identity: what identifies each of its sources, as JSON.
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
        """Return its sources; a worker looks for them once."""
        return _sources(self)


@lru_cache(maxsize=2)
def _sources(site: Site) -> tuple[Documents, ...]:
    return tuple(open_documents(spec, Path(site.cache)) for spec in site.config.specs)
