"""Layouts of a table of scores: wide, long, and one row per (model, data set) with its curve.

- wide: one row per model and one column per data set (a leaderboard), or the other way round. A
  table of numbers below a line of model ids has its row names in ``datasets.txt`` beside it.
- long: ``model, dataset`` and ``val_epoch1..E`` with ``test_final``; or a single ``score``; or, as
  `matrix export` writes it, ``split, stage, value`` with one row per value.

Every layout becomes a list of `Reading`: one number, and the line and column it came from.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.errors import InputError
from orchestrator.selection.matrix.performance import TEST_STAGE
from orchestrator.selection.matrix.table import Table

Layout = Literal["auto", "wide", "long"]
MODEL_TITLES = ("model", "models", "model_id", "model_name", "name", "")
DATASET_TITLES = ("dataset", "datasets", "data set", "task", "benchmark")
FINAL_TITLES = ("test_final", "score", "value")
DATASETS_FILE = "datasets.txt"
DEFAULT_METRIC = "accuracy"
CURVE = "val_epoch"


class Reading(NamedTuple):
    """One number of a table.

    Attributes:
        model: Model id.
        dataset: Data set name.
        stage: Epoch, or `TEST_STAGE`.
        value: The score; None where it is missing.
        line: Line in the file.
        column: Column in the file.
        seconds: Training time of the epoch.
        startup_s: Seconds until the first step.
        reason: Why the score is missing, where the table says so.
    """

    model: str
    dataset: str
    stage: int
    value: float | None
    line: int
    column: str
    seconds: float | None = None
    startup_s: float | None = None
    reason: str = ""

    def why_missing(self) -> str:
        """The reason of a missing score."""
        return self.reason or f"no number in line {self.line}, column {self.column!r}"


@dataclass(frozen=True)
class Readings:
    """Everything that a table says.

    Attributes:
        values: Its numbers.
        metrics: Data set to its metric, where the table names one.
        trained_on: Model to the data sets it was trained on, where the table names them.
        ignored: Columns that were not read.
    """

    values: list[Reading] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    trained_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def read_layout(table: Table, layout: Layout = "auto") -> Readings:
    """Read a table.

    Args:
        table: The cells.
        layout: ``auto``: long where there are a model and a dataset column, else wide.

    Raises:
        InputError: A required column is missing, a pair or an epoch occurs twice or is missing, or
            a cell is not a number.
    """
    pair = table.place("model"), table.place("dataset")
    if layout == "wide" or (layout == "auto" and None in pair):
        found = _wide(table)
    elif pair[0] is None or pair[1] is None:
        missing = [n for n, at in zip(("model", "dataset"), pair, strict=True) if at is None]
        raise InputError(
            f"{table.path}: line 1: the long layout needs the columns model, dataset and "
            f"val_epoch1 .. val_epochE with test_final, or score; missing: {', '.join(missing)}."
        )
    elif table.place("split") is not None and table.place("stage") is not None:
        found = _stages(table, pair[0], pair[1])
    else:
        found = _pairs(table, pair[0], pair[1])
    _refuse_repetitions(table, found.values)
    return found


def _wide(table: Table) -> Readings:
    """One row per model, or one per data set, or rows named by ``datasets.txt``."""
    title = table.header[0].lower()
    if title in MODEL_TITLES or title in DATASET_TITLES:
        names = [table.name(row, 0) for row in range(len(table.rows))]
        first, by_model = 1, title in MODEL_TITLES
    else:
        names, first, by_model = _names_beside(table), 0, False
    skip = table.place("trained_on") if by_model else None
    if not set(range(first, len(table.header))) - {skip}:
        raise InputError(f"{table.path}: line 1: no column of scores; it has {table.header[0]!r}.")
    if "" in table.header[first:]:
        raise table.refuse(1, "", "a column of scores needs a name, or --ignore leaves it out")
    trained = {}
    if skip is not None:
        trained = {name: _split(row[skip]) for name, row in zip(names, table.rows, strict=True)}
    values = []
    for row, name in enumerate(names):
        for column in range(first, len(table.header)):
            if column == skip:
                continue
            title = table.header[column]
            model, dataset = (name, title) if by_model else (title, name)
            value = table.number(row, column)
            place = table.lines[row], title
            values.append(Reading(model, dataset, TEST_STAGE, value, *place))
    return Readings(values, trained_on=trained)


def _names_beside(table: Table) -> list[str]:
    file = Path(table.path).parent / DATASETS_FILE
    known = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    names = [name.strip() for name in known if name.strip()]
    if len(names) != len(table.rows):
        raise InputError(
            f"{table.path}: line 1, column {table.header[0]!r}: the first column of the wide "
            "layout is named 'model' (one row per model) or 'dataset' (one row per data set); "
            f"without it, {DATASETS_FILE} beside the table names its {len(table.rows)} rows "
            f"({len(names)} names found)."
        )
    return names


def _pairs(table: Table, model: int, dataset: int) -> Readings:
    """One row per (model, data set): a curve and a final score, or a final score alone."""
    final = table.place(*FINAL_TITLES)
    curve = _curve_columns(table)
    if final is None:
        raise InputError(
            f"{table.path}: line 1: needs the columns model, dataset, val_epoch1 .. val_epochE and "
            "test_final (or score); missing: test_final. A data set without test scores has an "
            "empty test_final."
        )
    extra = {n: table.place(n) for n in ("metric", "seconds_per_epoch", "startup_s", "reason")}
    if not curve:  # the seconds of no epoch
        extra["seconds_per_epoch"] = None
    trained_on = table.place("trained_on")
    found = Readings(ignored=_ignored(table, {model, dataset, final, trained_on, *curve}, extra))
    for row, cells in enumerate(table.rows):
        key = table.name(row, model), table.name(row, dataset)
        _note(table, row, found, key, cells, extra["metric"], trained_on)
        seconds, startup = (
            table.duration(row, extra[name]) for name in ("seconds_per_epoch", "startup_s")
        )
        reason = "" if (at := extra["reason"]) is None else cells[at].strip()
        for stage, column in enumerate([*curve, final], start=1):
            at_test = column == final
            found.values.append(
                Reading(
                    *key,
                    TEST_STAGE if at_test else stage,
                    table.number(row, column),
                    table.lines[row],
                    table.header[column],
                    None if at_test else seconds,
                    startup if at_test else None,
                    reason,
                )
            )
    return found


def _curve_columns(table: Table) -> list[int]:
    """Columns of the epochs, in order, without a gap."""
    epochs: dict[int, int] = {}
    for place, title in enumerate(table.header):
        if not title.startswith(CURVE):
            continue
        digits = re.fullmatch(rf"{CURVE}([1-9][0-9]*)", title)
        if digits is None:
            raise table.refuse(1, title, f"{CURVE} must be followed by the number of the epoch")
        epochs[int(digits[1])] = place
    for expected, epoch in enumerate(sorted(epochs), start=1):
        if epoch != expected:
            raise table.refuse(
                1, f"{CURVE}{epoch}", f"a gap in the epochs: {CURVE}{expected} is missing"
            )
    return [epochs[epoch] for epoch in sorted(epochs)]


def _stages(table: Table, model: int, dataset: int) -> Readings:
    """One row per value, as `matrix export` writes it."""
    split, stage, value = table.place("split"), table.place("stage"), table.place("value", "score")
    if split is None or stage is None or value is None:
        raise InputError(f"{table.path}: line 1: split and stage need a column value.")
    extra = {n: table.place(n) for n in ("metric", "seconds", "startup_s", "reason")}
    trained_on = table.place("trained_on")
    used = {model, dataset, split, stage, value, trained_on}
    found = Readings(ignored=_ignored(table, used, extra))
    for row, cells in enumerate(table.rows):
        key = table.name(row, model), table.name(row, dataset)
        _note(table, row, found, key, cells, extra["metric"], trained_on)
        number = table.number(row, stage)
        is_test = cells[split].strip() == "test"
        if cells[split].strip() not in ("validation", "test"):
            raise table.refuse(table.lines[row], "split", "must be validation or test")
        if number is None or number != int(number) or (number < 1 and not is_test):
            raise table.refuse(table.lines[row], "stage", "must be an epoch, 1 or more")
        seconds, startup = (table.duration(row, extra[n]) for n in ("seconds", "startup_s"))
        found.values.append(
            Reading(
                *key,
                TEST_STAGE if is_test else int(number),
                table.number(row, value),
                table.lines[row],
                table.header[value],
                seconds,
                startup,
                "" if (at := extra["reason"]) is None else cells[at].strip(),
            )
        )
    _refuse_gaps(table, found.values)
    return found


def _note(
    table: Table,
    row: int,
    found: Readings,
    key: tuple[str, str],
    cells: Sequence[str],
    metric: int | None,
    trained_on: int | None,
) -> None:
    """Remember the metric of a data set and the training sets of a model."""
    model, dataset = key
    if metric is not None:
        name = cells[metric].strip() or DEFAULT_METRIC
        if found.metrics.setdefault(dataset, name) != name:
            raise table.refuse(
                table.lines[row],
                table.header[metric],
                f"{dataset} has the metric {found.metrics[dataset]!r} above and {name!r} here; one "
                "data set has one metric",
            )
    if trained_on is not None:
        known = {*found.trained_on.get(model, ()), *_split(cells[trained_on])}
        found.trained_on[model] = tuple(sorted(known))


def _refuse_repetitions(table: Table, values: Sequence[Reading]) -> None:
    seen: dict[tuple[str, str, int], int] = {}
    for item in values:
        before = seen.setdefault((item.model, item.dataset, item.stage), item.line)
        if before != item.line:
            raise table.refuse(
                item.line,
                item.column,
                f"model {item.model!r} on data set {item.dataset!r} is in line {before} already",
            )


def _refuse_gaps(table: Table, values: Sequence[Reading]) -> None:
    stages: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for item in values:
        if item.stage != TEST_STAGE:
            stages[item.model, item.dataset][item.stage] = item.line
    for (model, dataset), lines in stages.items():
        for expected, stage in enumerate(sorted(lines), start=1):
            if stage != expected:
                raise table.refuse(
                    lines[stage],
                    "stage",
                    f"a gap in the epochs of {model!r} on {dataset!r}: epoch {expected} is missing",
                )


def _ignored(table: Table, used: set[int | None], extra: dict[str, int | None]) -> tuple[str, ...]:
    read = used | set(extra.values())
    return tuple(name for place, name in enumerate(table.header) if place not in read)


def _split(text: str) -> tuple[str, ...]:
    return tuple(sorted({name.strip() for name in text.split(";") if name.strip()}))
