"""The view of a performance matrix that predictors read: learning curves on one scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class History:
    """Complete curves and final scores; larger is better.

    Attributes:
        models: M model ids.
        datasets: N data set names.
        curves: ``[M, N, E+1]`` validation scores after stages 1..E, then the final test score. A
            cell is complete, has only its final score, or is NaN.
        tagged: ``[M, N]`` whether the model declares, or is named after, the data set.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    curves: FloatArray
    tagged: BoolArray

    @classmethod
    def empty(cls, models: Sequence[str], stages: int) -> "History":
        """A history of ``models`` without any data set."""
        count = len(models)
        no_tags = np.zeros((count, 0), dtype=bool)
        return cls(tuple(models), (), np.full((count, 0, stages + 1), np.nan), no_tags)

    @property
    def stages(self) -> int:
        """E, the number of validation stages."""
        return int(self.curves.shape[2]) - 1

    def with_models(self, models: Sequence[str]) -> "History":
        """The same data for exactly ``models``, in that order; unknown models get NaN rows."""
        row_of = {model: row for row, model in enumerate(self.models)}
        shape = (len(models), *self.curves.shape[1:])
        curves, tagged = np.full(shape, np.nan), np.zeros(shape[:2], dtype=bool)
        for row, model in enumerate(models):
            if model in row_of:
                curves[row], tagged[row] = self.curves[row_of[model]], self.tagged[row_of[model]]
        return History(tuple(models), self.datasets, curves, tagged)

    def with_datasets(self, datasets: Sequence[str]) -> "History":
        """The same data for exactly ``datasets``, in that order."""
        keep = [self.datasets.index(name) for name in datasets]
        return History(self.models, tuple(datasets), self.curves[:, keep], self.tagged[:, keep])

    def without_dataset(self, dataset: str) -> "History":
        """The same data without one column."""
        return self.with_datasets([name for name in self.datasets if name != dataset])

    def without_tags(self) -> "History":
        """The same curves with every cell untagged."""
        untagged = np.zeros_like(self.tagged)
        return History(self.models, self.datasets, self.curves, untagged)

    def only_finals(self) -> "History":
        """The same data without curves (E = 0)."""
        return History(self.models, self.datasets, self.curves[:, :, -1:], self.tagged)

    def curved_datasets(self) -> int:
        """Number of data sets with at least two complete curves."""
        complete = ~np.isnan(self.curves).any(axis=2)
        return int((complete.sum(axis=0) >= 2).sum()) if self.stages else 0

    def measured_datasets(self) -> int:
        """Number of data sets with final scores of at least two models; others do not rank."""
        complete = ~np.isnan(self.curves[:, :, -1])
        return int((complete.sum(axis=0) >= 2).sum())
