"""The performance matrix: what every model scored on every benchmark set, stage by stage.

Long form, one row a measured value: ``model, dataset, split, stage, metric, value``. ``split`` is
``validation`` (stage 1..E: after that epoch) or ``test`` (stage 0: the final test score). Facts
about models and data sets (provenance, metric direction, content sketch) travel in the Parquet
schema's metadata, so that one file is the whole matrix. A matrix never changes in place: every
method that adds something returns a new one.

Shapes: M models, N data sets, E validation stages. The last column of a curve is the final test.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.arrays import BoolArray, FloatArray
from orchestrator.errors import InputError

COLUMNS = ("model", "dataset", "split", "stage", "metric", "value")
TEST_STAGE = 0
SKETCH_SIZE = 64
NEAR_DUPLICATE_OVERLAP = 0.5


def _empty_cells() -> pd.DataFrame:
    types: dict[str, Any] = dict.fromkeys(COLUMNS, "str") | {"stage": "int64", "value": "float64"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Where a row of the matrix comes from.

    Attributes:
        package: Package reference ``name/v0001`` that was fine-tuned ("" for imported tables).
        manifest_sha256: Hash of that package's manifest.
        trained_on: Data sets the model declares it was trained on.
    """

    package: str = ""
    manifest_sha256: str = ""
    trained_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a column of the matrix measures.

    Attributes:
        metric: Name of the score.
        higher_is_better: Its direction; `PerformanceMatrix.history` negates the other kind.
        digest: Hash of the data set's rows ("" when unknown).
        sketch: The `SKETCH_SIZE` smallest 52-bit hashes of its (text, label) rows, sorted.
        protocol: Hash of the fine-tuning settings the column was measured with.
    """

    metric: str = "accuracy"
    higher_is_better: bool = True
    digest: str = ""
    sketch: tuple[int, ...] = ()
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """What the predictors read: complete curves, larger is better.

    Attributes:
        models: M model ids.
        datasets: N data set names.
        curves: ``[M, N, E+1]`` validation after stages 1..E, then the final test; NaN where any
            of a cell's values is missing.
        tagged: ``[M, N]`` the model declares, or is named after, this data set.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    curves: FloatArray
    tagged: BoolArray

    @property
    def stages(self) -> int:
        """E, the number of validation stages."""
        return int(self.curves.shape[2]) - 1

    def with_models(self, models: Sequence[str]) -> "History":
        """The same data for exactly ``models``, in that order; unknown ones have no rows."""
        place = {model: row for row, model in enumerate(self.models)}
        shape = (len(models), *self.curves.shape[1:])
        curves, tagged = np.full(shape, np.nan), np.zeros(shape[:2], dtype=bool)
        for row, model in enumerate(models):
            if model in place:
                curves[row], tagged[row] = self.curves[place[model]], self.tagged[place[model]]
        return History(tuple(models), self.datasets, curves, tagged)

    def without_dataset(self, dataset: str) -> "History":
        """The same data less one column."""
        keep = [place for place, name in enumerate(self.datasets) if name != dataset]
        names = tuple(self.datasets[place] for place in keep)
        return History(self.models, names, self.curves[:, keep], self.tagged[:, keep])


@dataclass(frozen=True)
class PerformanceMatrix:
    """Models × data sets, with curves, gaps and provenance.

    Attributes:
        cells: Long-form table with `COLUMNS`; one row a (model, dataset, split, stage).
        models: Facts by model id.
        datasets: Facts by data set name.
    """

    cells: pd.DataFrame = field(default_factory=_empty_cells)
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    datasets: Mapping[str, DatasetFacts] = field(default_factory=dict)

    @property
    def model_names(self) -> tuple[str, ...]:
        """Model ids, sorted: the one order used for ties."""
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

    def add_cell(
        self, model: str, dataset: str, validation: Sequence[float], test: float
    ) -> "PerformanceMatrix":
        """Set one cell: validation score after each stage, and the final test score.

        Raises:
            InputError: The model or the data set has not been added, or a score is not finite.
        """
        return self.add_cells([(model, dataset, validation, test)])

    def add_cells(
        self, cells: Iterable[tuple[str, str, Sequence[float], float]]
    ) -> "PerformanceMatrix":
        """Set many cells at once; a cell that was there is replaced. See `add_cell`."""
        rows: list[tuple[str, str, str, int, str, float]] = []
        for model, dataset, validation, test in cells:
            self._check_cell(model, dataset, [*validation, test])
            metric = self.datasets[dataset].metric
            head = (model, dataset)
            rows += [
                (*head, "validation", stage, metric, float(value))
                for stage, value in enumerate(validation, start=1)
            ]
            rows.append((*head, "test", TEST_STAGE, metric, float(test)))
        new = pd.DataFrame(rows, columns=list(COLUMNS))
        fresh = set(zip(new["model"], new["dataset"], strict=True))
        keys = pd.Series(list(zip(self.cells["model"], self.cells["dataset"], strict=True)))
        kept = self.cells[[key not in fresh for key in keys]]
        cells_now = new if kept.empty else pd.concat([kept, new], ignore_index=True)
        return replace(self, cells=cells_now)

    def without(self, datasets: Iterable[str]) -> "PerformanceMatrix":
        """Drop columns, for example the target of a replay."""
        drop = set(datasets)
        kept = {name: facts for name, facts in self.datasets.items() if name not in drop}
        cells = self.cells[~self.cells["dataset"].isin(drop)].reset_index(drop=True)
        return replace(self, cells=cells, datasets=kept)

    def final(self) -> pd.DataFrame:
        """Final test scores ``[M, N]`` as measured (not oriented); NaN where missing."""
        return self._wide("test", TEST_STAGE)

    def missing(self) -> list[tuple[str, str]]:
        """(model, dataset) pairs without a final test score, in order."""
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
            InputError: The matrix holds no curve that long.
        """
        depth = self.stages if stages is None else stages
        if depth > self.stages or depth < 1:
            raise InputError(
                f"performance matrix: {depth} validation stages asked for, the longest curve has "
                f"{self.stages}. Benchmark with more epochs or select with fewer."
            )
        layers = [self._wide("validation", stage) for stage in range(1, depth + 1)]
        curves = np.stack([layer.to_numpy() for layer in [*layers, self.final()]], axis=2)
        facts = [self.datasets[name] for name in self.dataset_names]
        signs = [1.0 if item.higher_is_better else -1.0 for item in facts]
        curves = curves * np.array(signs)[None, :, None]
        curves[np.isnan(curves).any(axis=2)] = np.nan
        return History(self.model_names, self.dataset_names, curves, self._tags())

    def tagged(self, model: str, dataset: str) -> bool:
        """Whether the model declares training on ``dataset`` or is named after it."""
        facts = self.models.get(model, ModelFacts())
        return is_tagged(model, facts.trained_on, dataset)

    def near_duplicates(self, target: str, facts: DatasetFacts | None = None) -> dict[str, str]:
        """Columns that are the target itself under any name, with the reason for each."""
        found: dict[str, str] = {}
        for name, known in self.datasets.items():
            if _plain(name) == _plain(target):
                found[name] = "the same name"
            elif facts and facts.digest and facts.digest == known.digest:
                found[name] = "identical rows"
            elif facts and _overlap(facts.sketch, known.sketch) >= NEAR_DUPLICATE_OVERLAP:
                share = _overlap(facts.sketch, known.sketch)
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
            raise InputError(f"performance matrix: ({model}, {dataset}) has a score not finite.")

    def _wide(self, split: str, stage: int) -> pd.DataFrame:
        at = self.cells[(self.cells["split"] == split) & (self.cells["stage"] == stage)]
        wide = at.pivot(index="model", columns="dataset", values="value")
        full = wide.reindex(index=list(self.model_names), columns=list(self.dataset_names))
        return full.astype(float)

    def _tags(self) -> BoolArray:
        rows = [[self.tagged(m, d) for d in self.dataset_names] for m in self.model_names]
        return np.array(rows, dtype=bool).reshape(len(self.models), len(self.datasets))


def is_tagged(model: str, trained_on: Iterable[str], dataset: str) -> bool:
    """Whole-word match of the data set's name in the model id, or a declared training set."""
    declared = {_plain(name) for name in trained_on}
    return _plain(dataset) in declared or dataset.lower() in re.split(r"[^a-z0-9]+", model.lower())


def sketch_rows(rows: Iterable[tuple[str, str]]) -> tuple[int, ...]:
    """Bottom-k sketch of labelled rows: two sets that share most rows share most of it."""
    hashes = {
        int.from_bytes(hashlib.sha256(f"{label}\x1f{text}".encode()).digest()[:8], "big") >> 12
        for text, label in rows
    }
    return tuple(sorted(hashes)[:SKETCH_SIZE])


def _overlap(one: Sequence[int], two: Sequence[int]) -> float:
    """Containment estimated from bottom-k sketches: the share of the smaller set in the other."""
    if not one or not two:
        return 0.0
    limit = min(one[-1], two[-1])
    left, right = ({value for value in sketch if value <= limit} for sketch in (one, two))
    smaller = min(len(left), len(right))
    return len(left & right) / smaller if smaller else 0.0


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"^(builtin|files|hf):", "", name.lower()))
