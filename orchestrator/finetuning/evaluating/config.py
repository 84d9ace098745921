"""Settings of ``orchestrator evaluate``. Imports neither torch nor Ray."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.config import ClusterSection
from orchestrator.config.changes import PLACES, Change, Changes, Effect
from orchestrator.config.job import CommandConfig
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.tasks.kinds.classification import ClassificationConfig

Split = Literal["train", "validation", "test", "all"]


class EvaluateConfig(CommandConfig):
    """Measure a package on labelled rows, in this process."""

    verb: ClassVar[str] = "evaluate"
    changes: ClassVar[Changes] = {
        **PLACES,
        "threads": Change(Effect.ROUNDING, "speed"),
        "cache": Change(Effect.NOTHING, "a place"),
    }

    package: str = Field(min_length=1)
    """Package to measure: name, name@alias or name/v0001."""
    data: DatasetSpec
    """Labelled rows."""
    split: Split | None = None
    """Rows to answer. null: the test rows where the source has some, or where the package learned
    from this source; else all rows."""
    target: str | None = None
    """Head to measure; null: the one that the package was made for."""
    task: ClassificationConfig | None = None
    """Classify by words with the package's masked-word head, which has not learned the task:
    template and verbalizer. null: ask a head of the package."""
    compare: str | None = None
    """Another package to compare with on the same rows; its labels must be the same."""
    compare_target: str | None = None
    """Head of the other package; null: the one of the same name, else its default."""
    worst_rows: int = Field(20, ge=0)
    """Rows with the worst answers to list."""
    max_length: int | None = Field(None, ge=4)
    """Longest text in tokens; longer ones are cut. null: the limit of the package."""
    device: str = "cpu"
    """Device of the model: cpu, cuda or cuda:1."""
    threads: int = Field(1, ge=1)
    """Threads of the model."""
    cache: str | None = None
    """Folder for prepared data; null: the user's cache."""

    def problems(self) -> Iterable[Problem]:
        """Refuse settings that have no effect."""
        if self.cluster != ClusterSection():
            yield Problem("cluster", "has no effect: evaluate runs in this process. Leave it out.")
        if self.task is not None and self.task.template is None:
            yield Problem("task", "is for zero-shot classification. Give template and verbalizer.")
        if self.task is not None and self.target is not None:
            yield Problem("target", "is given beside task, which has a head of its own. Remove it.")
        if self.compare_target is not None and self.compare is None:
            yield Problem("compare_target", "has no effect without compare. Set that, too.")
