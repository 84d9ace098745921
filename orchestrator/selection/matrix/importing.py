"""Import of a table of scores as a performance matrix (``matrix import``)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.selection.matrix.duplicates import duplicate_columns
from orchestrator.selection.matrix.facts import DatasetFacts, ModelFacts, Source
from orchestrator.selection.matrix.layouts import (
    DEFAULT_METRIC,
    Layout,
    Reading,
    Readings,
    read_layout,
)
from orchestrator.selection.matrix.performance import (
    TEST_STAGE,
    MeasuredCell,
    PerformanceMatrix,
)
from orchestrator.selection.matrix.scales import bounds, find_scales, parse_scales
from orchestrator.selection.matrix.table import Table, read_table

ALL = "all"


@dataclass(frozen=True)
class ImportOptions:
    """Options of ``matrix import``.

    Attributes:
        layout: See `read_layout`.
        scale: See `parse_scales`.
        lower_is_better: Data sets or metrics; ``all`` for every one.
        ignore: Columns to leave out.
        allow_duplicates: Accept two columns with the same scores.
    """

    layout: Layout = "auto"
    scale: str = "auto"
    lower_is_better: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_duplicates: bool = False

    def told(self) -> dict[str, str]:
        """The options as text, for the provenance."""
        told = {"layout": self.layout, "scale": self.scale}
        if self.lower_is_better:
            told["lower_is_better"] = ",".join(self.lower_is_better)
        if self.ignore:
            told["ignore"] = ",".join(self.ignore)
        return told


@dataclass(frozen=True)
class Imported:
    """A matrix and what its import has to say.

    Attributes:
        matrix: The matrix.
        ignored: Columns that were not read.
    """

    matrix: PerformanceMatrix
    ignored: tuple[str, ...] = field(default=())


def import_table(path: str | Path, options: ImportOptions | None = None) -> Imported:
    """Read a table of scores.

    Args:
        path: File, see `read_table`.
        options: Default: layout and scale are found from the table, larger is better.

    Raises:
        InputError: The table cannot be read as scores; the message names line and column.
    """
    chosen = options or ImportOptions()
    table = read_table(path).without(chosen.ignore)
    readings = read_layout(table, chosen.layout)
    by_dataset: dict[str, list[Reading]] = defaultdict(list)
    for item in readings.values:
        by_dataset[item.dataset].append(item)
    datasets = _dataset_facts(table, by_dataset, readings, chosen)
    names = {item.model for item in readings.values}
    facts = {n: ModelFacts(trained_on=readings.trained_on.get(n, ())) for n in names}
    source = Source(
        file=str(path),
        sha256=table.sha256,
        imported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=len(table.rows),
        options=chosen.told(),
    )
    empty = PerformanceMatrix(models=facts, datasets=datasets, sources=(source,))
    matrix = empty.add_cells(_cells(readings.values))
    if not chosen.allow_duplicates:
        _refuse_duplicates(table, matrix, by_dataset)
    return Imported(matrix, readings.ignored)


def _dataset_facts(
    table: Table,
    by_dataset: Mapping[str, Sequence[Reading]],
    readings: Readings,
    options: ImportOptions,
) -> dict[str, DatasetFacts]:
    metrics = {name: readings.metrics.get(name, DEFAULT_METRIC) for name in by_dataset}
    lower = _lower(table, metrics, options.lower_is_better)
    wanted = parse_scales(options.scale, sorted(by_dataset))
    scales = find_scales(table, by_dataset, wanted, lower, metrics)
    facts: dict[str, DatasetFacts] = {}
    for name, items in by_dataset.items():
        worst, best = 0.0, 1.0
        if scales[name] == "range":
            worst, best = bounds(items, lower=name in lower)
        facts[name] = DatasetFacts(
            metric=metrics[name],
            higher_is_better=name not in lower,
            scale=scales[name],
            worst=worst,
            best=best,
        )
    return facts


def _lower(table: Table, metrics: Mapping[str, str], names: Sequence[str]) -> set[str]:
    """Data sets where lower is better."""
    found: set[str] = set()
    for name in names:
        hit = {d for d, metric in metrics.items() if name in (d, metric, ALL)}
        if not hit:
            raise InputError(
                f"{table.path}: --lower-is-better {name}: neither a data set nor a metric of the "
                f"table; it has {', '.join(sorted({*metrics, *metrics.values()}))}."
            )
        found |= hit
    return found


def _cells(values: Sequence[Reading]) -> list[MeasuredCell]:
    groups: dict[tuple[str, str], dict[int, Reading]] = defaultdict(dict)
    for item in values:
        groups[item.model, item.dataset][item.stage] = item
    cells = []
    for (model, dataset), stages in groups.items():
        curve = [stages[stage] for stage in sorted(stages) if stage != TEST_STAGE]
        final = stages.get(TEST_STAGE)
        gaps = [each.why_missing() for each in stages.values() if each.value is None]
        if final is None:
            gaps.append("no test row in the table")
        times = [each.seconds for each in curve]
        cells.append(
            MeasuredCell(
                model,
                dataset,
                [each.value for each in curve],
                None if final is None else final.value,
                [] if None in times else [each for each in times if each is not None],
                None if final is None else final.startup_s,
                "; ".join(dict.fromkeys(gaps)),
            )
        )
    return cells


def _refuse_duplicates(
    table: Table, matrix: PerformanceMatrix, by_dataset: Mapping[str, Sequence[Reading]]
) -> None:
    scores, names = matrix.normalized().to_numpy(), matrix.dataset_names
    for pair in duplicate_columns(scores):
        one, other = names[pair.one], names[pair.other]
        place = by_dataset[other][0]
        raise table.refuse(
            place.line,
            place.column,
            f"the data sets {one!r} and {other!r} hold the same scores ({pair.reason}). A target "
            "could be chosen with its own scores. Leave one out (--ignore, for a table with one "
            "row per pair delete its rows), or say --allow-duplicates.",
        )
