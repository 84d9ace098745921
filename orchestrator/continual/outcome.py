"""What a finished stream amounts to: its matrix, its figures, the files of its package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from orchestrator.config import dump_yaml
from orchestrator.continual.config import PARTS, ContinualConfig
from orchestrator.continual.memory import STATE_FILE, package_state
from orchestrator.continual.metrics import Matrix, StreamFigures, as_rows
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import Stream
from orchestrator.modeling.package import read_config, write_model
from orchestrator.training.history import History
from orchestrator.zoo import Package

MATRIX_FILE = "evaluation/accuracy_matrix.json"
HISTORY_FILE = "history.parquet"
SCENARIO = "task-incremental"
NO_VALUE = "    -"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished stream.

    Attributes:
        config: The job.
        package: What it started from.
        stream: Its tasks.
        stages: What each unit left.
        matrix: Accuracy on task j after learning task i, [T, T], NaN where not measured.
        metrics: Summary for the manifest and the result line.
        scenario: Whether the task is known at test time.
    """

    config: ContinualConfig
    package: Package
    stream: Stream
    stages: Stages
    matrix: Matrix
    metrics: dict[str, Any]
    scenario: str = SCENARIO

    @classmethod
    def read(cls, config: ContinualConfig, package: Package, stages: Stages) -> "Outcome":
        """Read the units of a finished stream and compute its figures."""
        stream = Stream.load(config, package.path)
        records = [stages.record(unit.index) for unit in stages.units]
        matrix = _matrix(stream.titles, stages, records)
        figures = StreamFigures.of(matrix).as_dict()
        metrics = {
            **figures,
            "tasks": stream.titles,
            "accuracy_matrix": as_rows(matrix),
            "method": config.method.preset,
            "steps": sum(record["steps"] for record in records),
            "seconds": round(sum(record["seconds"] for record in records), 1),
            "skipped_steps": sum(record["skipped"] for record in records),
            "clamped_share": records[-1]["clamped_share"],
            "unwatched_heads": stream.unwatched_heads(package.path),
            "promotion": _promotion(config, figures["forgetting"]),
        }
        metrics["promotion_refused"] = metrics["promotion"] == "refused"
        return cls(config, package, stream, stages, matrix, metrics)

    @property
    def task(self) -> dict[str, Any]:
        """The manifest's description of what the package answers."""
        inherited = self.package.manifest.task
        known = {} if inherited is None else inherited.labels
        kept = {head.name for head in self.stream.heads(self.package.path)}
        labels = {name: names for name, names in known.items() if name in kept}
        for title, task in zip(self.stream.titles, self.stream.tasks, strict=True):
            labels[title] = list(task.label_names)
        return {
            "kind": "classification",
            "modality": "text" if self.stream.processor is not None else "vision",
            "labels": labels,
            "max_length": self.stream.max_length if self.stream.processor is not None else None,
        }

    def evaluation(self) -> dict[str, Any]:
        """Return the content of ``evaluation/accuracy_matrix.json``."""
        parts = {part: self.config.method.uses(part) for part in PARTS}
        return {
            "scenario": self.scenario,
            "split": "test",
            "rows": "accuracy after learning the task of the row",
            "tasks": self.stream.titles,
            "matrix": as_rows(self.matrix),
            "majority_baseline": [task.majority_accuracy for task in self.stream.tasks],
            "method": {"preset": self.config.method.preset, **parts},
            "figures": StreamFigures.of(self.matrix).as_dict(),
        }

    def table(self) -> str:
        """Return the matrix as text, a row a learned task."""
        first = max(len(title) for title in self.stream.titles) + len("after ")
        columns = [max(len(title), len(NO_VALUE)) for title in self.stream.titles]
        head = " " * first + "".join(
            f"  {title:>{width}}" for title, width in zip(self.stream.titles, columns, strict=True)
        )
        rows = [
            f"{f'after {title}':{first}}"
            + "".join(
                f"  {NO_VALUE if np.isnan(value) else f'{value:.3f}':>{width}}"
                for value, width in zip(row, columns, strict=True)
            )
            for title, row in zip(self.stream.titles, self.matrix, strict=True)
        ]
        return "\n".join([head, *rows])


def write_package(folder: Path, outcome: Outcome) -> None:
    """Write all files of the package into an existing folder."""
    last = outcome.stages.units[-1].index
    weights, importance = outcome.stages.weights(last), outcome.stages.importance(last)
    parent = outcome.package.path
    config = read_config(parent).with_targets(outcome.stream.heads(parent))
    write_model(folder, weights, config)
    if outcome.stream.processor is not None:
        outcome.stream.processor.save(folder)
    if importance is not None:
        (folder / STATE_FILE).parent.mkdir(parents=True)
        save_file(package_state(importance, weights), folder / STATE_FILE)
    histories = [outcome.stages.history(unit.index) for unit in outcome.stages.units]
    _joined(histories).to_parquet(folder / HISTORY_FILE)
    (folder / MATRIX_FILE).parent.mkdir(parents=True)
    text = json.dumps(outcome.evaluation(), indent=1)
    (folder / MATRIX_FILE).write_text(text, encoding="utf-8")
    (folder / "job.yaml").write_text(dump_yaml(outcome.config), encoding="utf-8")


def _matrix(titles: list[str], stages: Stages, records: list[dict[str, Any]]) -> Matrix:
    """Rows of tasks that were not learned by themselves (joint) stay NaN but the last."""
    matrix = np.full((len(titles), len(titles)), np.nan)
    for unit, record in zip(stages.units, records, strict=True):
        for title, accuracy in record["accuracy"].items():
            matrix[unit.seen[-1], titles.index(title)] = accuracy
    return matrix


def _promotion(config: ContinualConfig, forgetting: float | None) -> str:
    """Return ``promoted``, ``refused`` (too much forgotten) or ``not asked``."""
    bound = config.promotion.max_forgetting
    if bound is not None and forgetting is not None and forgetting > bound:
        return "refused"
    return "not asked" if config.promotion.alias is None else "promoted"


def _joined(histories: list[History]) -> History:
    """One history; each unit's seconds go on from the one before."""
    rows: list[dict[str, Any]] = []
    for history in histories:
        before = max((row["seconds"] for row in rows), default=0.0)
        rows += [{**row, "seconds": row["seconds"] + before} for row in history.rows]
    return History(rows)
