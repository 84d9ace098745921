"""The performance matrix: the score of every model on every benchmark set, stage by stage.

Long form, one row per measured value: ``model, dataset, split, stage, metric, value``. ``split`` is
``validation`` (stage 1..E: after that epoch) or ``test`` (stage 0: the final test score). Facts
about models and data sets travel in the Parquet schema's metadata, so that one file is the whole
matrix. A matrix never changes in place: every method that adds something returns a new one.

Shapes: M models, N data sets, E validation stages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from orchestrator.arrays import BoolArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix.facts import (
    DatasetFacts,
    ModelFacts,
    is_tagged,
    overlap,
    plain_name,
)
from orchestrator.selection.matrix.history import History

COLUMNS = ("model", "dataset", "split", "stage", "metric", "value")
TEST_STAGE = 0
NEAR_DUPLICATE_OVERLAP = 0.5
"""Share of common labelled rows from which on two data sets count as one."""


def _empty_cells() -> pd.DataFrame:
    types = dict.fromkeys(COLUMNS, "str") | {"stage": "int64", "value": "float64"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})


@dataclass(frozen=True)
class PerformanceMatrix:
    """Models × data sets, with curves, gaps and provenance.

    Attributes:
        cells: Long-form table with `COLUMNS`; one row per (model, dataset, split, stage).
        models: Facts by model id.
        datasets: Facts by data set name.
    """

    cells: pd.DataFrame = field(default_factory=_empty_cells)
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    datasets: Mapping[str, DatasetFacts] = field(default_factory=dict)

    @property
    def model_names(self) -> tuple[str, ...]:
        """Model ids, sorted; this order breaks ties."""
        return tuple(sorted(self.models))

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """Data set names, sorted."""
        return tuple(sorted(self.datasets))

    @property
    def stages(self) -> int:
        """The longest validation curve."""
        return int(self.cells["stage"].max()) if len(self.cells) else 0

    def add_model(self, model: str, facts: ModelFacts | None = None) -> "PerformanceMatrix":
        """Add a row (empty until cells are added) or replace its facts."""
        return replace(self, models={**self.models, model: facts or ModelFacts()})

    def add_dataset(self, dataset: str, facts: DatasetFacts | None = None) -> "PerformanceMatrix":
        """Add a column (empty until cells are added) or replace its facts."""
        return replace(self, datasets={**self.datasets, dataset: facts or DatasetFacts()})

    def add_cells(
        self, cells: Iterable[tuple[str, str, Sequence[float], float]]
    ) -> "PerformanceMatrix":
        """Set cells: (model, data set, validation score after each stage, final test score).

        Cells that exist already are replaced.

        Raises:
            InputError: The model or the data set has not been added, or a score is not finite.
        """
        rows: list[tuple[str, str, str, int, str, float]] = []
        for model, dataset, validation, test in cells:
            self._check_cell(model, dataset, [*validation, test])
            metric = self.datasets[dataset].metric
            rows += [
                (model, dataset, "validation", stage, metric, float(value))
                for stage, value in enumerate(validation, start=1)
            ]
            rows.append((model, dataset, "test", TEST_STAGE, metric, float(test)))
        new = pd.DataFrame(rows, columns=list(COLUMNS))
        replaced = set(zip(new["model"], new["dataset"], strict=True))
        keys = pd.Series(list(zip(self.cells["model"], self.cells["dataset"], strict=True)))
        others = self.cells[[key not in replaced for key in keys]]
        cells_after = new if others.empty else pd.concat([others, new], ignore_index=True)
        return replace(self, cells=cells_after)

    def without(self, datasets: Iterable[str]) -> "PerformanceMatrix":
        """Drop columns, for example the target of a replay."""
        drop = set(datasets)
        others = {name: facts for name, facts in self.datasets.items() if name not in drop}
        cells = self.cells[~self.cells["dataset"].isin(drop)].reset_index(drop=True)
        return replace(self, cells=cells, datasets=others)

    def final(self) -> pd.DataFrame:
        """Final test scores ``[M, N]`` as measured (not oriented); NaN where missing."""
        return self._wide("test", TEST_STAGE)

    def missing(self) -> list[tuple[str, str]]:
        """(model, dataset) pairs without a final test score, sorted."""
        gaps = np.isnan(self.final().to_numpy())
        names = self.dataset_names
        return [
            (model, names[column])
            for row, model in enumerate(self.model_names)
            for column in np.flatnonzero(gaps[row])
        ]

    def history(self, stages: int | None = None) -> History:
        """Complete, oriented curves of the first ``stages`` stages (default: all).

        Raises:
            InputError: No curve in the matrix is that long.
        """
        depth = self.stages if stages is None else stages
        if depth > self.stages or depth < 1:
            raise InputError(
                f"performance matrix: {depth} validation stages requested, the longest curve has "
                f"{self.stages}. Benchmark with more epochs or select with fewer."
            )
        layers = [self._wide("validation", stage) for stage in range(1, depth + 1)]
        curves = np.stack([layer.to_numpy() for layer in [*layers, self.final()]], axis=2)
        facts = [self.datasets[name] for name in self.dataset_names]
        signs = [1.0 if item.higher_is_better else -1.0 for item in facts]
        curves = curves * np.array(signs)[None, :, None]
        curves[np.isnan(curves).any(axis=2)] = np.nan
        return History(self.model_names, self.dataset_names, curves, self._tags())

    def near_duplicates(self, target: str, facts: DatasetFacts | None = None) -> dict[str, str]:
        """Columns that hold the target itself under any name, each with the reason."""
        found: dict[str, str] = {}
        for name, known in self.datasets.items():
            if plain_name(name) == plain_name(target):
                found[name] = "the same name"
            elif facts and facts.digest and facts.digest == known.digest:
                found[name] = "identical rows"
            elif facts and overlap(facts.sketch, known.sketch) >= NEAR_DUPLICATE_OVERLAP:
                share = overlap(facts.sketch, known.sketch)
                found[name] = f"about {share:.0%} of the labelled rows are the same"
        return found

    def guard(self, target: str, facts: DatasetFacts | None = None) -> None:
        """Refuse to select for a data set whose scores are in the matrix.

        Raises:
            InputError: The target, or a near-duplicate of it, is a column of the matrix.
        """
        found = self.near_duplicates(target, facts)
        if found:
            reasons = "; ".join(f"{name!r} ({reason})" for name, reason in sorted(found.items()))
            raise InputError(
                f"target {target!r} is in the performance matrix: {reasons}. Selecting with the "
                "target's own test scores would be a leak. Choose another target, or drop the "
                "column (PerformanceMatrix.without)."
            )

    def _check_cell(self, model: str, dataset: str, values: Sequence[float]) -> None:
        for kind, name, known in (
            ("model", model, self.models),
            ("data set", dataset, self.datasets),
        ):
            if name not in known:
                raise InputError(
                    f"performance matrix: {kind} {name!r} is unknown; add it first. "
                    f"Known: {', '.join(sorted(known)) or 'none'}."
                )
        if not np.isfinite(np.asarray(values, dtype=float)).all():
            raise InputError(
                f"performance matrix: ({model}, {dataset}) has a score that is not finite."
            )

    def _wide(self, split: str, stage: int) -> pd.DataFrame:
        at = self.cells[(self.cells["split"] == split) & (self.cells["stage"] == stage)]
        wide = at.pivot(index="model", columns="dataset", values="value")
        full = wide.reindex(index=list(self.model_names), columns=list(self.dataset_names))
        return full.astype(float)

    def _tags(self) -> BoolArray:
        rows = [
            [is_tagged(model, self.models[model].trained_on, name) for name in self.dataset_names]
            for model in self.model_names
        ]
        return np.array(rows, dtype=bool).reshape(len(self.models), len(self.datasets))
