"""Sections of the answers to the rows of one task: labels, confusion, calibration, worst rows."""

from typing import Any

import pandas as pd

from orchestrator.finetuning.evaluating.results import AnswerReport
from orchestrator.report.figures import draw_table, render_svg
from orchestrator.report.page import Picture, Section, Table
from orchestrator.zoo.suite import Figure

MAX_DRAWN_LABELS = 30
"""Confusion matrices of more labels are not drawn."""


def answer_sections(report: AnswerReport, of: str = "") -> list[Section]:
    """Return the table per label with the confusion matrix, calibration, worst rows.

    Args:
        report: Answers to the rows of one task.
        of: Put behind each title.
    """
    parts = []
    if report.labels:
        parts.append(_labels(report, of))
    if report.calibration:
        lead = "Answers by their confidence; calibrated answers lie on the diagonal."
        parts.append(Section(f"Calibration{of}", lead, (_calibration(report),)))
    if report.worst:
        table = Table(
            ("row", "text", "truth", "answer"),
            tuple(
                (row.row, " | ".join(filter(None, [row.text, row.pair])), *_both(row))
                for row in report.worst
            ),
        )
        parts.append(Section(f"Worst rows{of}", "Rows with the worst answers first.", (table,)))
    return parts


def interval(figure: Figure | None) -> str:
    """Return a figure with its interval in words."""
    if figure is None:
        return "undefined"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _both(row: Any) -> tuple[str, str]:
    answer = row.answer.get("label", row.answer) if isinstance(row.answer, dict) else row.answer
    return str(row.truth), str(answer)


def _labels(report: AnswerReport, of: str) -> Section:
    table = Table(
        ("label", "rows", "answered", "precision", "recall", "F1"),
        tuple(
            (
                row.label,
                row.rows,
                row.answered,
                *map(interval, (row.precision, row.recall, row.f1)),
            )
            for row in report.labels
        ),
    )
    blocks: tuple[Table | Picture, ...] = (table,)
    if report.confusion is not None and len(report.confusion.labels) <= MAX_DRAWN_LABELS:
        blocks += (_confusion(report),)
    return Section(f"Labels{of}", "In the matrix, a row is the truth, a column the answer.", blocks)


def _confusion(report: AnswerReport) -> Picture:
    assert report.confusion is not None
    names = list(report.confusion.labels)
    counts = pd.DataFrame(report.confusion.counts, index=names, columns=names)
    side = 2.0 + 0.45 * len(names)
    return render_svg(
        lambda axis: draw_table(axis, counts, "{:.0f}"),
        width=min(side + 1.0, 12.0),
        height=min(side, 11),
    )


def _calibration(report: AnswerReport) -> Picture:
    def draw(axis: Any) -> None:
        bins = report.calibration
        axis.plot([0, 1], [0, 1], color="#666666", lw=0.8, ls="--")
        axis.plot([b.confidence for b in bins], [b.accuracy for b in bins], marker="o", ms=4)
        axis.set_xlabel("mean confidence")
        axis.set_ylabel("share that is right")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)

    return render_svg(draw, width=3.6, height=3.2)
