"""Outcome of a finished stream: its matrix, its figures, the files of its package."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.config import dump_yaml
from orchestrator.config.tables import table
from orchestrator.continual.config import ContinualConfig
from orchestrator.continual.metrics import Matrix, as_rows, figures_of
from orchestrator.continual.results import (
    MATRIX_FILE,
    StreamEvaluation,
    StreamSummary,
    UnitRecord,
)
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import Stream
from orchestrator.continual.task import package_state
from orchestrator.inference.heads import default_head, package_tasks
from orchestrator.inference.protection import store_tensors
from orchestrator.modeling.package import read_config, write_model
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.training.history import History
from orchestrator.zoo import Package
from orchestrator.zoo.manifest import Task
from orchestrator.zoo.suite import Suite

HISTORY_FILE = "history.parquet"
SCENARIO = "task-incremental"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished stream.

    Attributes:
        package: The package it started from.
        stream: Its tasks.
        stages: Results of each unit.
        matrix: Accuracy on task j after learning task i, [T, T], NaN where not measured.
        summary: Metrics for the manifest and the result line.
        scenario: Whether the task is known at test time.
    """

    package: Package
    stream: Stream
    stages: Stages
    matrix: Matrix
    summary: StreamSummary
    scenario: str = SCENARIO

    @classmethod
    def read(
        cls, config: ContinualConfig, package: Package, stages: Stages, stream: Stream | None = None
    ) -> "Outcome":
        """Read the units of a finished stream and compute its figures.

        Args:
            config: The job.
            package: The package it started from.
            stages: Its finished units.
            stream: Its tasks; None: load them.
        """
        stream = Stream.load(config, package.path) if stream is None else stream
        records = [stages.record(unit.index) for unit in stages.units]
        matrix = _matrix(stream.titles, stages, records)
        figures = figures_of(matrix)
        summary = StreamSummary(
            **figures.model_dump(),
            tasks=tuple(stream.titles),
            accuracy_matrix=as_rows(matrix),
            method=config.method.preset,
            steps=sum(record.steps for record in records),
            seconds=round(sum(record.seconds for record in records), 1),
            skipped_steps=sum(record.skipped for record in records),
            clamped_share=records[-1].clamped_share,
            unwatched_heads=tuple(stream.unwatched_heads(package.path)),
            unprotected_heads=tuple(stream.unprotected_heads(package.path)),
            promotion="not asked" if config.promotion.alias is None else "promoted",
            promotion_refused=False,
        )
        outcome = cls(package, stream, stages, matrix, summary)
        return outcome.judged(outcome.refusals())

    def refusals(self) -> list[str]:
        """Return why the forgetting of the stream is not accepted; unknown is not."""
        bound, forgotten = self.stream.config.promotion.max_forgetting, self.summary.forgetting
        if bound is None or (forgotten is not None and forgotten <= bound):
            return []
        if forgotten is None:
            return ["forgetting is unknown: max_forgetting needs tasks learned one after the other"]
        return [f"forgetting {forgotten:.4f} is above max_forgetting {bound:g}"]

    def judged(self, reasons: Sequence[str], suite: Suite | None = None) -> "Outcome":
        """Return this outcome with what the gate says.

        Args:
            reasons: Why the package is refused.
            suite: What was measured of it; heads that were examined are not unwatched.
        """
        exams = {} if suite is None else suite.exams
        heads = self.summary.unwatched_heads
        changes: dict[str, object] = {
            "unwatched_heads": tuple(
                head for head in heads if head not in exams or exams[head].status == "unverified"
            )
        }
        if reasons:
            changes |= {"promotion": "refused", "promotion_refused": True}
        return replace(self, summary=self.summary.model_copy(update=changes))

    @property
    def default(self) -> str:
        """Head that answers where none is named: that of the package, else of the first task."""
        known = default_head(self.package, package_tasks(self.package))
        heads = {head.name for head in self.stream.heads(self.package.path)}
        return known if known is not None and known in heads else self.stream.titles[0]

    @property
    def task(self) -> Task:
        """Labels and input limits for the manifest."""
        inherited = self.package.manifest.task
        known = {} if inherited is None else inherited.labels
        heads = {head.name for head in self.stream.heads(self.package.path)}
        labels = {name: names for name, names in known.items() if name in heads}
        for title, task in zip(self.stream.titles, self.stream.tasks, strict=True):
            labels[title] = list(task.label_names)
        texts = self.stream.processor is not None
        return Task(
            kind="classification",
            modality="text" if texts else "vision",
            labels=labels,
            max_length=self.stream.max_length if texts else None,
        )

    def evaluation(self) -> StreamEvaluation:
        """Return the content of ``evaluation/accuracy_matrix.json``."""
        method = self.stream.config.method
        used = {part.type_name() for part in method.used()}
        names = dict.fromkeys([*(part.type_name() for part in method.sections), *sorted(used)])
        return StreamEvaluation(
            scenario=self.scenario,
            split="test",
            rows="accuracy after learning the task of the row",
            tasks=tuple(self.stream.titles),
            matrix=as_rows(self.matrix),
            majority_baseline=tuple(task.majority_accuracy for task in self.stream.tasks),
            method={"preset": method.preset, **{name: name in used for name in names}},
            figures=figures_of(self.matrix),
        )

    def table(self) -> str:
        """Return the matrix as text, one row per learned task, and the figures below it."""
        titles = self.stream.titles
        rows = [
            [f"after {title}", *("-" if np.isnan(v) else f"{v:.3f}" for v in row)]
            for title, row in zip(titles, self.matrix, strict=True)
        ]
        text = table(rows, header=["", *titles], align="<" + ">" * len(titles))
        figures = figures_of(self.matrix).model_dump()
        known = [f"{k.replace('_', ' ')} {v:.3f}" for k, v in figures.items() if v is not None]
        return f"{text}\n{', '.join(known)}"


def write_package(folder: Path, outcome: Outcome) -> None:
    """Write all files of the package into an existing folder."""
    stages, last = outcome.stages, outcome.stages.units[-1].index
    weights = stages.weights(last)
    left = {name: stages.left(last, name) for name in stages.left_names(last)}
    parent = outcome.package.path
    config = read_config(parent).with_targets(outcome.stream.heads(parent))
    write_model(folder, weights, config)
    copy_statement(parent, folder)
    if outcome.stream.processor is not None:
        outcome.stream.processor.save(folder)
    if left and outcome.stream.config.suite.protect:
        store_tensors(folder, package_state(left, weights))
    histories = [stages.history(unit.index) for unit in stages.units]
    _joined(histories).to_parquet(folder / HISTORY_FILE)
    (folder / MATRIX_FILE).parent.mkdir(parents=True)
    text = outcome.evaluation().model_dump_json(indent=1)
    (folder / MATRIX_FILE).write_text(text, encoding="utf-8")
    (folder / "job.yaml").write_text(dump_yaml(outcome.stream.config), encoding="utf-8")


def _matrix(titles: list[str], stages: Stages, records: list[UnitRecord]) -> Matrix:
    """Fill one row per unit; joint training has one unit, which fills the last row."""
    matrix = np.full((len(titles), len(titles)), np.nan)
    for unit, record in zip(stages.units, records, strict=True):
        for title, accuracy in record.accuracy.items():
            matrix[unit.seen[-1], titles.index(title)] = accuracy
    return matrix


def _joined(histories: list[History]) -> History:
    """Return one history; each unit's seconds continue those of the unit before."""
    joined = History()
    for history in histories:
        before = max((row.seconds for row in joined.rows), default=0.0)
        joined.rows += [replace(row, seconds=row.seconds + before) for row in history.rows]
    return joined
