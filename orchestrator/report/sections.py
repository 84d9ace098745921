"""Sections of a report, each from the typed results that a stage leaves in its package."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from orchestrator.continual.results import StreamEvaluation
from orchestrator.pretraining.results import Evaluation, Figures
from orchestrator.quantization.results import ParetoReport
from orchestrator.report import figures
from orchestrator.report.page import Cell, Section, Table
from orchestrator.selection.costs.results import Ledger
from orchestrator.selection.results import SelectionReport

UNMEASURED = ("rows", "wall_s", "slots", "money", "currency")
"""Fields of a ledger with their own lines, where they were measured."""


def pretraining(
    histories: Mapping[str, pd.DataFrame], entropy: float | None, models: Table
) -> Section:
    """Return the learning curves of pre-trained models.

    Args:
        histories: Package to its history, long form.
        entropy: Unigram entropy of the held-out text in nats; None: no line to beat.
        models: Figures of the models.
    """
    return Section(
        "Pre-training",
        "Thin lines are training loss, thick ones validation; a model that learns from context "
        "comes below the entropy of the words alone.",
        (figures.learning_curves(histories, entropy), models),
    )


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the figures of one pre-trained package."""
    stored = evaluation.model_dump(exclude={"schema_version"}, exclude_none=True)
    first: dict[str, Cell] = {"data": evaluation.data, "split": evaluation.split}
    return Table.of_figures(first | stored)


def training(history: pd.DataFrame, evaluation: Figures) -> Section:
    """Return the course of one pre-training run: speed, gradients, and the loss guard.

    Args:
        history: Its history, long form.
        evaluation: Its figures.
    """
    rows = history[history["split"] == "train"]
    metric = {str(name): part["value"] for name, part in rows.groupby("metric")}
    numbers: dict[str, Cell] = {
        "steps skipped (a loss or gradient was not finite)": evaluation.skipped_steps,
        "returns to a checkpoint to skip bad samples": evaluation.rollbacks,
        "tokens/s (median)": float(metric["tokens_per_second"].median()),
        "share of the measured peak (MFU, median)": float(metric["mfu"].median()),
        "share of the time waiting for data (mean)": float(metric["data_wait_share"].mean()),
        "seconds in which checkpoints held up training": float(metric["checkpoint_seconds"].sum()),
        "memory of a worker, MB (maximum)": float(metric["memory_bytes"].max()) / 1e6,
    }
    return Section(
        "Training progress",
        "One point per interval; a dashed line marks an interval with skipped steps.",
        (figures.training_progress(history), Table.of_figures(numbers)),
    )


def performance_matrix(selection: SelectionReport) -> Section:
    """Return the heat map and the dendrogram of the matrix that a selection read."""
    matrix = pd.DataFrame.from_dict(selection.matrix, orient="index")
    tree = None
    if selection.linkage is not None:
        matrix = matrix.loc[list(selection.linkage.models)]
        tree = np.asarray(selection.linkage.matrix, dtype=float)
    return Section(
        "Performance matrix",
        "Final test accuracy of every candidate on every benchmark task; models that succeed and "
        "fail together are joined early in the tree.",
        (figures.matrix_heatmap(matrix, tree),),
    )


def selection(report: SelectionReport) -> Section:
    """Return the bracket, the ranking with reasons, and the cost of a selection."""
    winners = [index for index, row in enumerate(report.ranking) if row.status == "winner"]
    ranking = Table(
        ("place", "model", "epochs", "why"),
        tuple((row.place, row.model, row.epochs, row.reason) for row in report.ranking),
        highlight=winners[0] if winners else None,
    )
    cost = {
        name.replace("_", " "): value for name, value in report.ledger if name not in UNMEASURED
    }
    if report.ledger.wall_s:
        cost |= {"wall s": round(report.ledger.wall_s, 1), "slots": report.ledger.slots}
    if report.ledger.money is not None:
        cost[report.ledger.currency] = report.ledger.money
    return Section(
        f"Selection for {report.target.name}",
        f"Always answering the largest class scores {report.majority_accuracy:.3f} on test "
        f"rows, the winner {report.test_accuracy:.3f}.",
        (
            figures.halving_bracket(report.bracket),
            ranking,
            *selection_remarks(report),
            Table.of_figures(cost, "cost"),
            *ledger_table(report.ledger),
        ),
    )


def selection_remarks(report: SelectionReport) -> tuple[Table, ...]:
    """Return ties, salvage and warnings of a selection, one row each; none without any."""
    rows: list[tuple[Cell, ...]] = []
    if report.tied_with_winner:
        names = ", ".join(report.tied_with_winner)
        rows.append(("tied with the winner", f"{names}: validation rows do not tell them apart"))
    if report.salvage is not None:
        rows.append(("salvage", report.salvage.in_words(report.winner)))
    rows += [("warning", text) for text in report.warnings]
    return (Table(("remark", ""), tuple(rows)),) if rows else ()


def ledger_table(ledger: Ledger) -> tuple[Table, ...]:
    """Return the rows of a ledger as one table; none for files of earlier releases."""
    if not ledger.rows:
        return ()
    columns = ("phase", "model", "rung", "epochs", "steps", "seconds", "start-up s", "slots")
    money = (ledger.currency,) if ledger.money is not None else ()
    rows = [
        (
            *(row.phase, row.model, row.rung or "", row.epochs, row.steps),
            *(round(row.seconds, 2), round(row.startup_s, 2), round(row.slots, 2)),
            *((row.money or 0.0,) if money else ()),
        )
        for row in ledger.rows
    ]
    return (Table((*columns, *money), tuple(rows)),)


def continual(evaluation: StreamEvaluation) -> Section:
    """Return the accuracy matrix of a task stream."""
    numbers = {name.replace("_", " "): value for name, value in evaluation.figures}
    return Section(
        "Continual learning",
        f"Accuracy on the task of a column after learning the task of a row "
        f"({evaluation.scenario}); values that fall downwards show forgetting.",
        (
            figures.accuracy_matrix(evaluation.matrix, evaluation.tasks),
            Table.of_figures(numbers),
        ),
    )


def quantization(pareto: ParetoReport) -> Section:
    """Return the measured plans: accuracy against latency."""
    points = sorted(pareto.points, key=lambda point: point.latency_ms)
    chosen = [index for index, point in enumerate(points) if point.chosen]
    plans = Table(
        ("plan", "INT8 GEMMs", "accuracy", "ms"),
        tuple((p.name, p.integer_units, p.accuracy, p.latency_ms) for p in points),
        highlight=chosen[0] if chosen else None,
    )
    return Section(
        "Quantization",
        f"Every point is a measured ONNX session: accuracy on {pareto.split} rows, one text at "
        "a time, one thread. The front weighs accuracy, divergence from the float model and time. "
        "A plan named with a number of tokens cuts texts there.",
        (figures.pareto_front(pareto.points), plans),
    )


def serving(
    latencies_ms: Sequence[float], failures: int, examples: Sequence[tuple[str, str, str]]
) -> Section:
    """Return the latencies of real requests, and some answers to read."""
    return Section(
        "Serving",
        f"{len(latencies_ms) + failures} requests over HTTP, {failures} failed.",
        (
            figures.latency_histogram(latencies_ms),
            Table(("text", "answer", "right label"), tuple(examples)),
        ),
    )
