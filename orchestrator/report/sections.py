"""Sections of a report, each from the plain data that a stage leaves in its package."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.continual.results import StreamEvaluation
from orchestrator.pretraining.results import Figures
from orchestrator.report import figures
from orchestrator.report.page import Section, table
from orchestrator.selection.results import SelectionReport


def pretraining(
    histories: Mapping[str, pd.DataFrame],
    entropy: float | None,
    rows: Sequence[Mapping[str, Any]],
) -> Section:
    """Learning curves of pre-trained models.

    Args:
        histories: package to its history.
        entropy: unigram entropy of the held-out text, nats.
        rows: one mapping a model for the table.
    """
    return Section(
        "Pre-training",
        "Thin lines are training loss, thick ones validation; a model that learns from context "
        "comes below the entropy of the words alone.",
        (figures.learning_curves(histories, entropy), table(rows)),
    )


def training(history: pd.DataFrame, evaluation: Figures) -> Section:
    """How one pre-training run went: speed, gradients, and what the loss guard did.

    Args:
        history: its history, long form.
        evaluation: its figures.
    """
    rows = history[history["split"] == "train"]
    metric = {str(name): part["value"] for name, part in rows.groupby("metric")}
    numbers = {
        "steps skipped (a loss or gradient was not finite)": evaluation.skipped_steps,
        "times gone back to a checkpoint, around bad samples": evaluation.rollbacks,
        "tokens/s (median)": float(metric["tokens_per_second"].median()),
        "share of the measured peak (MFU, median)": float(metric["mfu"].median()),
        "share of the time waiting for data (mean)": float(metric["data_wait_share"].mean()),
        "seconds in which checkpoints held up training": float(metric["checkpoint_seconds"].sum()),
        "memory of a worker, MB (most)": float(metric["memory_bytes"].max()) / 1e6,
    }
    return Section(
        "How training went",
        "One point an interval; a dashed line marks an interval with skipped steps.",
        (
            figures.training_progress(history),
            table([{"figure": name, "": value} for name, value in numbers.items()]),
        ),
    )


def performance_matrix(report: SelectionReport) -> Section:
    """Heat map and dendrogram of the matrix a selection read."""
    matrix = pd.DataFrame.from_dict(report.matrix, orient="index")
    tree = None
    if report.linkage is not None:
        matrix = matrix.loc[list(report.linkage.models)]
        tree = np.asarray(report.linkage.matrix, dtype=float)
    return Section(
        "Performance matrix",
        "Final test accuracy of every candidate on every benchmark task; models that succeed and "
        "fail together are joined early in the tree.",
        (figures.matrix_heatmap(matrix, tree),),
    )


def selection(report: SelectionReport) -> Section:
    """Bracket, ranking with reasons, and cost of a selection."""
    ranking = [
        {
            "place": row.place,
            "model": row.model,
            "epochs": row.epochs,
            "why": row.reason,
            "winner": row.status == "winner",
        }
        for row in report.ranking
    ]
    cells = [
        {
            "model": cell.model,
            "rung": cell.rung,
            "score": cell.score,
            "predicted": cell.predicted,
            "kept": cell.kept,
        }
        for cell in report.bracket
    ]
    ledger = [
        {"cost": name.replace("_", " "), "": value}
        for name, value in report.ledger.model_dump().items()
    ]
    return Section(
        f"Selection for {report.target.name}",
        f"Always answering the largest class scores {report.majority_accuracy:.3f} on test "
        f"rows, the winner {report.test_accuracy:.3f}.",
        (
            figures.halving_bracket(cells),
            table(ranking, highlight="winner"),
            table(ledger),
        ),
    )


def continual(evaluation: StreamEvaluation) -> Section:
    """Accuracy matrix of a task stream."""
    numbers = [
        {"figure": name.replace("_", " "), "": value}
        for name, value in evaluation.figures.model_dump().items()
    ]
    return Section(
        "Continual learning",
        f"Accuracy on the task of a column after learning the task of a row "
        f"({evaluation.scenario}); values that fall down a column show forgetting.",
        (figures.accuracy_matrix(evaluation.matrix, evaluation.tasks), table(numbers)),
    )


def quantization(pareto: Mapping[str, Any]) -> Section:
    """Measured plans: accuracy against latency (``evaluation/pareto.json``)."""
    points = [
        {**point, "label": "float" if point["name"] == "float" else None}
        for point in pareto["points"]
    ]
    rows = [
        {
            "plan": point["name"],
            "INT8 GEMMs": point["integer_units"],
            "accuracy": point["accuracy"],
            "ms": point["latency_ms"],
            "chosen": point["chosen"],
        }
        for point in points
    ]
    return Section(
        "Quantization",
        f"Every point is a measured ONNX session: accuracy on {pareto['split']} rows, one text at "
        "a time, one thread. The front weighs accuracy, divergence from the float model and time.",
        (figures.pareto_front(points), table(rows, highlight="chosen")),
    )


def serving(
    latencies_ms: Sequence[float], failures: int, examples: Sequence[tuple[str, str]]
) -> Section:
    """Latencies of real requests and some answers to read."""
    rows = [{"text": text, "answer": answer} for text, answer in examples]
    return Section(
        "Serving",
        f"{len(latencies_ms) + failures} requests over HTTP, {failures} failed.",
        (figures.latency_histogram(latencies_ms), table(rows)),
    )
