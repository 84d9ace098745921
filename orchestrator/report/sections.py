"""Sections of a report, each from the typed results that a stage leaves in its package."""

from collections.abc import Mapping, Sequence

import pandas as pd

from orchestrator.continual.results import StreamEvaluation
from orchestrator.pretraining.results import Evaluation, Figures
from orchestrator.report import figures
from orchestrator.report.page import Cell, Section, Table


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
