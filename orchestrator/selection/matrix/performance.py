"""The performance matrix: the score of every model on every benchmark set, stage by stage.

Long form, one row per value: ``model, dataset, split, stage, metric, value``. ``split`` is
``validation`` (stage 1..E: after that epoch) or ``test`` (stage 0: the final test score). Values
are stored as measured, with the metric's direction and scale; `PerformanceMatrix.history` and
`PerformanceMatrix.normalized` put them on one scale. A value that is missing is a row without
``value`` and with a ``reason``. ``seconds`` is the training time of the epoch; ``startup_s``, in
the test row, the time until the first step.

Facts about models and data sets travel in the Parquet schema's metadata, so that one file is the
whole matrix. A matrix never changes in place: every method that adds something returns a new one.

Shapes: M models, N data sets, E validation stages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from orchestrator.arrays import BoolArray, FloatArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix.facts import (
    DatasetFacts,
    ModelFacts,
    Source,
    is_tagged,
    overlap,
    plain_name,
)
from orchestrator.selection.matrix.history import History

COLUMNS = ("model", "dataset", "split", "stage", "metric", "value")
COST_COLUMNS = ("seconds", "startup_s", "reason")
"""Columns that files of schema version 1 lack."""
TEST_STAGE = 0
NEAR_DUPLICATE_OVERLAP = 0.5
"""Share of common labelled rows from which on two data sets count as one."""


class MeasuredCell(NamedTuple):
    """Scores of one model on one data set.

    Attributes:
        model: Model id.
        dataset: Data set name.
        validation: Validation score after each stage; None where missing.
        test: Final test score; None where missing.
        seconds: Training time of each stage, or nothing.
        startup_s: Seconds until the first training step.
        reason: Why scores are missing.
    """

    model: str
    dataset: str
    validation: Sequence[float | None]
    test: float | None
    seconds: Sequence[float] = ()
    startup_s: float | None = None
    reason: str = ""


def _empty_cells() -> pd.DataFrame:
    types = dict.fromkeys((*COLUMNS, *COST_COLUMNS), "str") | {"stage": "int64"}
    types |= dict.fromkeys(("value", "seconds", "startup_s"), "float64")
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})


@dataclass(frozen=True)
class PerformanceMatrix:
    """Models × data sets, with curves, gaps and provenance.

    Attributes:
        cells: Long-form table with `COLUMNS` and `COST_COLUMNS`; one row per (model, dataset,
            split, stage).
        models: Facts by model id.
        datasets: Facts by data set name.
        sources: Files that cells were imported from.
    """

    cells: pd.DataFrame = field(default_factory=_empty_cells)
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    datasets: Mapping[str, DatasetFacts] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

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
        measured = self.cells[self.cells["value"].notna()]
        return int(measured["stage"].max()) if len(measured) else 0

    def add_model(self, model: str, facts: ModelFacts | None = None) -> "PerformanceMatrix":
        """Add a row (empty until cells are added) or replace its facts."""
        return replace(self, models={**self.models, model: facts or ModelFacts()})

    def add_dataset(self, dataset: str, facts: DatasetFacts | None = None) -> "PerformanceMatrix":
        """Add a column (empty until cells are added) or replace its facts."""
        return replace(self, datasets={**self.datasets, dataset: facts or DatasetFacts()})

    def add_cells(
        self, cells: Iterable[MeasuredCell | tuple[str, str, Sequence[float], float]]
    ) -> "PerformanceMatrix":
        """Set cells; those that exist already are replaced.

        Raises:
            InputError: The model or the data set has not been added, a score is not finite, or
                one is missing without a reason.
        """
        rows: list[tuple[str, str, str, int, str, float, float, float, str]] = []
        for cell in (MeasuredCell(*each) for each in cells):
            self._check_cell(cell)
            metric = self.datasets[cell.dataset].metric
            times = [*cell.seconds, *[np.nan] * (len(cell.validation) - len(cell.seconds))]
            scores = [*enumerate(cell.validation, start=1), (TEST_STAGE, cell.test)]
            for (stage, score), seconds in zip(scores, [*times, np.nan], strict=True):
                split = "validation" if stage else "test"
                value = np.nan if score is None else float(score)
                start = np.nan if stage or cell.startup_s is None else cell.startup_s
                why = cell.reason if score is None else ""
                key = (cell.model, cell.dataset, split, stage, metric)
                rows.append((*key, value, seconds, start, why))
        new = pd.DataFrame(rows, columns=[*COLUMNS, *COST_COLUMNS])
        replaced = set(zip(new["model"], new["dataset"], strict=True))
        keys = zip(self.cells["model"], self.cells["dataset"], strict=True)
        others = self.cells[[key not in replaced for key in keys]]
        cells_after = new if others.empty else pd.concat([others, new], ignore_index=True)
        return replace(self, cells=cells_after)

    def without(self, datasets: Iterable[str]) -> "PerformanceMatrix":
        """Drop columns, for example the target of a replay."""
        drop = set(datasets)
        others = {name: facts for name, facts in self.datasets.items() if name not in drop}
        cells = self.cells[~self.cells["dataset"].isin(drop)].reset_index(drop=True)
        return replace(self, cells=cells, datasets=others)

    def with_references(self, references: Iterable[str]) -> "PerformanceMatrix":
        """Give packages the rows that an imported table has under their plain names.

        A table of a user knows ``bert``, the zoo ``bert/v0001``. Rows of `benchmark` belong to one
        version and stay with it.
        """
        aliases: dict[str, list[str]] = {}
        for reference in references:
            name = reference.rpartition("/")[0]
            known = self.models.get(name)
            if reference not in self.models and known and not known.manifest_sha256:
                aliases.setdefault(name, []).append(reference)
        if not aliases:
            return self
        models = {name: facts for name, facts in self.models.items() if name not in aliases}
        parts = [self.cells[~self.cells["model"].isin(list(aliases))]]
        for name, refs in aliases.items():
            models |= dict.fromkeys(refs, self.models[name])
            rows = self.cells[self.cells["model"] == name]
            parts += [rows.assign(model=reference) for reference in refs]
        return replace(self, cells=pd.concat(parts, ignore_index=True), models=models)

    def final(self) -> pd.DataFrame:
        """Final test scores ``[M, N]`` as measured; NaN where missing."""
        return self._wide("test", TEST_STAGE)

    def normalized(self) -> pd.DataFrame:
        """Final test scores ``[M, N]`` on one scale (`DatasetFacts.normalized`)."""
        finals = self.final()
        for name in self.dataset_names:
            finals[name] = self.datasets[name].normalized(finals[name].to_numpy())
        return finals

    def reasons(self) -> dict[tuple[str, str], str]:
        """Reasons of the missing values of a (model, data set), where the table says so."""
        told = self.cells[self.cells["reason"].fillna("") != ""]
        cells: dict[tuple[str, str], str] = {}
        for model, dataset, reason in told[["model", "dataset", "reason"]].to_numpy():
            cells.setdefault((str(model), str(dataset)), str(reason))
        return cells

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
        """Curves of the first ``stages`` stages (default: all), on one scale, larger is better.

        A cell with some of its values has no curve; its final score stays.

        Raises:
            InputError: No curve in the matrix is that long.
        """
        depth = self.stages if stages is None else stages
        if depth > self.stages or depth < 0:
            raise InputError(
                f"performance matrix: {depth} validation stages requested, the longest curve has "
                f"{self.stages}. Benchmark with more epochs or select with fewer."
            )
        layers = [self._wide("validation", stage).to_numpy() for stage in range(1, depth + 1)]
        curves = np.stack([*layers, self.final().to_numpy()], axis=2)
        for place, name in enumerate(self.dataset_names):
            curves[:, place] = self.datasets[name].normalized(curves[:, place])
        broken = np.isnan(curves).any(axis=2)
        curves[broken, :-1] = np.nan
        return History(self.model_names, self.dataset_names, curves, self._tags())

    def validation(self) -> FloatArray:
        """Validation scores ``[M, N, E]`` on one scale, NaN where missing."""
        layers = [self._wide("validation", at).to_numpy() for at in range(1, self.stages + 1)]
        shape = (len(self.models), len(self.datasets), 0)
        curves = np.stack(layers, axis=2) if layers else np.zeros(shape)
        for place, name in enumerate(self.dataset_names):
            curves[:, place] = self.datasets[name].normalized(curves[:, place])
        return curves

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
                f"column: orchestrator matrix export M.parquet --without {min(found)} --out "
                "N.parquet."
            )

    def _check_cell(self, cell: MeasuredCell) -> None:
        for kind, name, known in (
            ("model", cell.model, self.models),
            ("data set", cell.dataset, self.datasets),
        ):
            if name not in known:
                raise InputError(
                    f"performance matrix: {kind} {name!r} is unknown; add it first. "
                    f"Known: {', '.join(sorted(known)) or 'none'}."
                )
        values = [value for value in (*cell.validation, cell.test) if value is not None]
        if not np.isfinite(np.asarray(values, dtype=float)).all():
            raise InputError(
                f"performance matrix: ({cell.model}, {cell.dataset}) has a score that is not "
                "finite."
            )
        if len(values) <= len(cell.validation) and not cell.reason:
            raise InputError(
                f"performance matrix: ({cell.model}, {cell.dataset}) lacks a score without a "
                "reason."
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
