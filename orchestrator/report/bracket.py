"""Halving bracket of a selection: scores, predictions and their intervals, rung by rung."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.figures import render_svg, series_style
from orchestrator.report.page import Cell, Note, Picture, Table
from orchestrator.selection.results import BracketCell, SelectionReport

MAX_NAMED = 8
"""Models with a color and a name in the picture, the best; the others are thin gray lines."""
DODGE = 0.05
"""Epochs by which the predictions of two models stand apart."""


def bracket_blocks(report: SelectionReport) -> tuple[Picture | Table | Note, ...]:
    """Return the picture of the bracket, a line on its intervals, and its table."""
    if not report.bracket:
        return (Note("No rung was completed."),)
    widths = _halfwidths(report)
    note = (
        f"The picture names the best {MAX_NAMED}. In the table: validation score → predicted final "
        "score ± half of its 90 % interval; empty: dropped before. Gray dots are the other models."
    )
    if all(cell.predicted is None for cell in report.bracket):
        note = "No prediction: the history has too few data sets for a predictor."
    elif not widths:
        note = "Predictions have no interval: the history has too few data sets."
    if report.first_rung_steps is not None:
        note += (
            f" After the first {report.first_rung_steps} steps the better half by validation score "
            "stays: there are no curves for a part of an epoch, hence no prediction."
        )
    return (halving_bracket(report, widths), Note(note), _table(report, widths))


def halving_bracket(report: SelectionReport, widths: Mapping[int, float]) -> Picture:
    """Draw validation curves, predictions with intervals, and where models were dropped.

    Args:
        report: The selection.
        widths: Rung to the half-width of the intervals of its predictions.
    """
    cells = _cells_of(report)
    named = _order(report)[:MAX_NAMED]

    def draw(axis: Any) -> None:
        for model in cells.keys() - set(named):
            of_model = cells[model]
            scores = [cell.score for cell in of_model.values()]
            axis.plot(list(of_model), scores, color="#bbb", lw=0.7, marker=".", ms=3, zorder=1)
        for index, model in enumerate(named):
            style, of_model = series_style(index), cells[model]
            rungs, scores = list(of_model), [cell.score for cell in of_model.values()]
            axis.plot(rungs, scores, marker="o", ms=4, label=model, **style)
            shift = DODGE * (index + 1)
            for rung, cell in of_model.items():
                if cell.predicted is not None:
                    axis.errorbar(
                        rung + shift, cell.predicted, yerr=widths.get(rung), fmt="x", ms=5,
                        color=style["color"], elinewidth=0.9, capsize=2, alpha=0.85,
                    )  # fmt: skip
            if not cell.kept:
                axis.plot(
                    rungs[-1:], scores[-1:], "o", ms=7, mfc="white", color=style["color"], zorder=3
                )
        ticks = sorted({cell.rung for cell in report.bracket})
        axis.set_xticks(ticks, [report.rung_name(rung).removeprefix("rung ") for rung in ticks])
        axis.set_xlabel("rung   ·   o validation score (ring: dropped), x predicted final score")
        axis.set_ylabel("score")
        axis.margins(x=0.08)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))

    return render_svg(draw, width=9.4, height=3.6)


def _table(report: SelectionReport, widths: Mapping[int, float]) -> Table:
    """One row per model, best first; per rung its score and what was predicted then."""
    cells = _cells_of(report)
    rungs = sorted({cell.rung for cell in report.bracket})
    rows = []
    for model in _order(report):
        found = cells[model]
        texts = [_in_words(found[r], widths.get(r)) if r in found else "" for r in rungs]
        rows.append((model, *texts))
    columns = ("model", *(report.rung_name(rung) for rung in rungs))
    return Table(columns, tuple(rows), highlight=0)


def _in_words(cell: BracketCell, width: float | None) -> Cell:
    text = f"{cell.score:.3f}"
    if cell.predicted is not None:
        text += f" → {cell.predicted:.3f}"
        if width is not None:
            text += f"\u00a0±\u00a0{width:.3f}"
    return text


def _cells_of(report: SelectionReport) -> dict[str, dict[int, BracketCell]]:
    found: dict[str, dict[int, BracketCell]] = {}
    for cell in sorted(report.bracket, key=lambda cell: cell.rung):
        found.setdefault(cell.model, {})[cell.rung] = cell
    return found


def _order(report: SelectionReport) -> Sequence[str]:
    """Models of the bracket, best first."""
    trained = {cell.model for cell in report.bracket}
    return [row.model for row in report.ranking if row.model in trained]


def _halfwidths(report: SelectionReport) -> dict[int, float]:
    return {
        rung.rung: rung.halfwidth
        for rung in report.rungs
        if rung.halfwidth is not None and math.isfinite(rung.halfwidth)
    }
