"""Stored curves of one target, revealed one epoch at a time, and the history beside them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix.duplicates import duplicate_columns
from orchestrator.selection.matrix.facts import is_tagged
from orchestrator.selection.matrix.history import History
from orchestrator.selection.matrix.performance import PerformanceMatrix


@dataclass(frozen=True)
class StoredTarget:
    """Everything a replay may read.

    Attributes:
        name: The target.
        curves: Model to its validation scores; a curve that ends early is a trial that failed.
        finals: Model to its final test score, where one is stored. Read after the choice.
        gaps: Model to why it has no complete curve.
        stages: E, epochs of a full fine-tuning.
        history: The other columns, tags included.
        tagged: Models that declare, or are named after, the target.
    """

    name: str
    curves: Mapping[str, tuple[float, ...]]
    finals: Mapping[str, float]
    gaps: Mapping[str, str]
    stages: int
    history: History
    tagged: frozenset[str]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Models with at least one validation score, sorted."""
        return tuple(sorted(self.curves))


class StoredMatrix:
    """A matrix that gives its columns one after another as targets.

    Args:
        matrix: Curves of candidates on the targets and on the history sets.
        never_history: Columns left out of every history.

    Raises:
        InputError: A name is not a column.
    """

    def __init__(self, matrix: PerformanceMatrix, never_history: Collection[str] = ()) -> None:
        self._matrix = matrix
        self._never = frozenset(never_history)
        self._names = matrix.dataset_names
        self._require(never_history, "--never-history")
        self._finals = matrix.normalized().to_numpy()
        self._curves = matrix.validation()
        self._reasons = matrix.reasons()
        self._histories: dict[int, History] = {}

    def with_curves(self) -> list[str]:
        """Data sets that can be replayed.

        Raises:
            InputError: None has curves.
        """
        known = _lengths(self._curves).max(axis=0, initial=0)
        found = [name for name, length in zip(self._names, known, strict=True) if length]
        if not found:
            raise InputError(
                "replay: no data set of the matrix has validation scores; final scores alone "
                "cannot be replayed. Import curves (val_epoch1 .. val_epochE)."
            )
        return found

    def target(self, name: str) -> StoredTarget:
        """Take one column out of the matrix as the target.

        Raises:
            InputError: The name is not a column, the target has no curves, or its scores are in
                the history under another name.
        """
        self._require([name], "target")
        place, models = self._names.index(name), self._matrix.model_names
        self._refuse_copies(place)
        if name not in self.with_curves():
            raise InputError(
                f"target: {name!r} has no validation scores; a replay reveals them epoch by "
                f"epoch. With curves: {', '.join(self.with_curves())}."
            )
        column = self._curves[:, place]
        lengths = _lengths(column)
        stages = int(lengths.max())
        gaps = {
            model: self._reasons.get((model, name), "not in the table")
            for model, length in zip(models, lengths, strict=True)
            if length < stages
        }
        return StoredTarget(
            name=name,
            curves={
                model: tuple(float(value) for value in curve[:length])
                for model, curve, length in zip(models, column, lengths, strict=True)
                if length
            },
            finals={
                model: float(value)
                for model, value in zip(models, self._finals[:, place], strict=True)
                if not np.isnan(value)
            },
            gaps=gaps,
            stages=stages,
            history=self._history(name, stages),
            tagged=frozenset(
                model
                for model, facts in self._matrix.models.items()
                if is_tagged(model, facts.trained_on, name)
            ),
        )

    def _history(self, target: str, stages: int) -> History:
        """Curves of the other columns, no longer than the longest of them."""
        kept = [n for n in self._names if n != target and n not in self._never]
        places = [self._names.index(name) for name in kept]
        longest = _lengths(self._curves[:, places]).max(initial=0)
        depth = min(stages, int(longest))
        if depth not in self._histories:
            self._histories[depth] = self._matrix.history(depth)
        return self._histories[depth].with_datasets(kept)

    def _require(self, names: Collection[str], option: str) -> None:
        for name in names:
            if name not in self._names:
                raise InputError(
                    f"{option}: {name!r} is not in the matrix; it has {', '.join(self._names)}."
                )

    def _refuse_copies(self, place: int) -> None:
        """Refuse a history that holds the target's scores under another name.

        The only use of the target's test scores before the choice; it can only end the replay.
        """
        for scores in (self._finals, *np.moveaxis(self._curves[:, :, -1:], 2, 0)):
            for pair in duplicate_columns(scores, only=place):
                target, other = self._names[place], self._names[pair.one + pair.other - place]
                if other not in self._never:
                    raise InputError(
                        f"target {target!r} is in the history as {other!r} ({pair.reason}). "
                        "Choosing with its own scores would be a leak. Say "
                        f"--never-history {other}."
                    )


def _lengths(curves: FloatArray) -> IntArray:
    """Scores before the first gap, along the last axis."""
    return np.asarray((~np.isnan(np.cumsum(curves, axis=-1))).sum(axis=-1))
