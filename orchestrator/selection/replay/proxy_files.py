"""Stored proxy scores (``--proxy``)."""

from collections.abc import Collection, Mapping
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.selection.matrix.table import Table, read_table
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.base import PROXIES

LEEP = "leep"
FLOOR = "_floor"


def read_proxies(path: str | Path, models: Collection[str]) -> dict[str, ProxyScore]:
    """Read proxy scores of models on one target.

    Either one column per proxy below ``model, leep, knn, ..`` (optional: ``leep_floor``, its score
    without information), or the published form: a line of model ids and a line of LEEP values.
    A floor that is not stored is the lowest score of the column.

    Raises:
        InputError: The file cannot be read, or names models or proxies that do not exist.
    """
    table = read_table(path)
    column = table.place("model")
    scores = _published(table) if column is None else _columns(table, column)
    for name in scores:
        if name.removesuffix(FLOOR) not in PROXIES.names():
            raise table.refuse(
                1, name, f"not a proxy; there are {', '.join(sorted(PROXIES.names()))}"
            )
        if not scores[name]:
            raise table.refuse(1, name, "has no number")
        if name.removesuffix(FLOOR) not in scores:
            raise table.refuse(1, name, f"a floor without its scores; add {name[: -len(FLOOR)]!r}")
    known = {model for values in scores.values() for model in values}
    unknown = sorted(known - set(models))
    if unknown:
        raise InputError(f"{path}: {unknown[0]!r} is not a model of the matrix.")
    floors = {name: scores.get(f"{name}{FLOOR}", {}) for name in scores if not name.endswith(FLOOR)}
    lowest = {name: min(scores[name].values()) for name in floors}
    found: dict[str, ProxyScore] = {}
    for model in sorted(known):
        values = {name: scores[name][model] for name in floors if model in scores[name]}
        found[model] = ProxyScore(
            values=values,
            floors={name: floors[name].get(model, lowest[name]) for name in values},
        )
    return found


def _published(table: Table) -> Mapping[str, dict[str, float]]:
    """A line of model ids, a line of LEEP values."""
    if len(table.rows) != 1:
        raise InputError(
            f"{table.path}: line 1: needs a column 'model', or exactly two lines: model ids and "
            "LEEP values."
        )
    cells = {name: table.number(0, place) for place, name in enumerate(table.header)}
    return {LEEP: {name: value for name, value in cells.items() if value is not None}}


def _columns(table: Table, column: int) -> Mapping[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for place, name in enumerate(table.header):
        if place == column:
            continue
        cells = {
            table.name(row, column): table.number(row, place) for row in range(len(table.rows))
        }
        if len(cells) != len(table.rows):
            raise table.refuse(1, table.header[column], "a model occurs twice")
        scores[name] = {model: value for model, value in cells.items() if value is not None}
    return scores
