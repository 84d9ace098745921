"""The page of an evaluation, from the typed report in its run folder."""

from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.finetuning.evaluate_results import EVALUATION_FILE, EvaluationReport
from orchestrator.report.figures import draw_table, render_svg
from orchestrator.report.page import Cell, Page, Picture, Section, Table
from orchestrator.storage import read_model
from orchestrator.zoo.suite import Figure

MAX_DRAWN_LABELS = 30
"""Confusion matrices of more labels are not drawn."""


def holds_evaluation(folder: Path) -> bool:
    """Return whether a run folder is that of an evaluation."""
    return (folder / EVALUATION_FILE).is_file()


def evaluation_page(folder: Path) -> Page:
    """Return the page of an evaluation.

    Raises:
        IntegrityError: The report is damaged.
    """
    report = read_model(folder / EVALUATION_FILE, EvaluationReport)
    primary = report.metrics.get(report.primary)
    facts = {"rows": f"{report.rows:,}", "split": report.split}
    if primary is not None:
        facts = {report.primary: _interval(primary), **facts}
    return Page(
        title=report.package,
        subtitle=f"evaluation of head {report.task.head!r} ({report.task.kind}) on "
        f"{report.data.spec.get('source', 'rows')}",
        facts=facts,
        sections=evaluation_sections(report),
        notes=[f"{count} rows left out: {reason}." for reason, count in report.rejected.items()],
    )


def evaluation_sections(report: EvaluationReport) -> list[Section]:
    """Return metrics, the table per label with the confusion matrix, calibration, worst rows."""
    of_labels = {f"{m}.{row.label}" for row in report.labels for m in ("precision", "recall", "f1")}
    figures = {name: found for name, found in report.metrics.items() if name not in of_labels}
    columns: tuple[str, ...] = ("metric", "value", "95 % from", "to")
    rows: list[tuple[Cell, ...]] = [(n, f.value, f.low, f.high) for n, f in figures.items()]
    if report.compared is not None:
        columns += (report.compared, "better by", "95 % from", "to", "rows won", "rows lost")
        rows = [row + _difference(report, str(row[0])) for row in rows]
    sections = [
        Section(
            "Metrics",
            "Intervals are from 1,000 resamples of the rows; differences are paired by row.",
            (Table(columns, tuple(rows)),),
        )
    ]
    if report.labels:
        sections.append(_labels(report))
    if report.calibration:
        lead = "Answers by their confidence; calibrated answers lie on the diagonal."
        sections.append(Section("Calibration", lead, (_calibration(report),)))
    if report.worst:
        table = Table(
            ("row", "text", "truth", "answer"),
            tuple(
                (row.row, " | ".join(filter(None, [row.text, row.pair])), *_both(row))
                for row in report.worst
            ),
        )
        sections.append(Section("Worst rows", "Rows with the worst answers first.", (table,)))
    return sections


def _both(row: Any) -> tuple[str, str]:
    answer = row.answer.get("label", row.answer) if isinstance(row.answer, dict) else row.answer
    return str(row.truth), str(answer)


def _difference(report: EvaluationReport, name: str) -> tuple[Cell, ...]:
    found = report.differences.get(name)
    if found is None:
        return (None,) * 6
    return (found.parent, -found.drop, -found.high, -found.low, found.gained, found.lost)


def _labels(report: EvaluationReport) -> Section:
    table = Table(
        ("label", "rows", "answered", "precision", "recall", "F1"),
        tuple(
            (
                row.label,
                row.rows,
                row.answered,
                *map(_interval, (row.precision, row.recall, row.f1)),
            )
            for row in report.labels
        ),
    )
    blocks: tuple[Table | Picture, ...] = (table,)
    if report.confusion is not None and len(report.confusion.labels) <= MAX_DRAWN_LABELS:
        blocks += (_confusion(report),)
    return Section("Labels", "In the matrix, a row is the truth, a column the answer.", blocks)


def _confusion(report: EvaluationReport) -> Picture:
    assert report.confusion is not None
    names = list(report.confusion.labels)
    counts = pd.DataFrame(report.confusion.counts, index=names, columns=names)
    side = 2.0 + 0.45 * len(names)
    return render_svg(
        lambda axis: draw_table(axis, counts, "{:.0f}"),
        width=min(side + 1.0, 12.0),
        height=min(side, 11),
    )


def _calibration(report: EvaluationReport) -> Picture:
    def draw(axis: Any) -> None:
        bins = report.calibration
        axis.plot([0, 1], [0, 1], color="#666666", lw=0.8, ls="--")
        axis.plot([b.confidence for b in bins], [b.accuracy for b in bins], marker="o", ms=4)
        axis.set_xlabel("mean confidence")
        axis.set_ylabel("share that is right")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)

    return render_svg(draw, width=3.6, height=3.2)


def _interval(figure: Figure | None) -> str:
    if figure is None:
        return "undefined"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
