"""Sections of a fine-tuned package: curves, figures with intervals, answers, suite and gate."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from orchestrator.finetuning.evaluating.results import ANSWERS_FILE, StoredAnswers
from orchestrator.finetuning.results import EVALUATION, FinetuneEvaluation
from orchestrator.report import figures
from orchestrator.report.answers import answer_sections, interval
from orchestrator.report.page import Cell, Picture, Section, Table
from orchestrator.storage import read_model
from orchestrator.zoo import Package
from orchestrator.zoo.suite import Exam, Figure, Suite, read_suite

PER_LABEL = ("precision.", "recall.", "f1.")
"""Metrics of one label, which the table of labels shows."""


def finetuning_sections(package: Package) -> Iterator[Section | str]:
    """Yield learning curves and figures of a fine-tuned package; nothing of any other.

    Raises:
        IntegrityError: Its results are damaged.
    """
    if not package.has(EVALUATION):
        return
    evaluation, history = package.read_model(EVALUATION, FinetuneEvaluation), package.history()
    if history is None:
        yield f"{package.ref} has no history: its learning curves are missing."
        return
    names = [name for name in ("loss", evaluation.watched) if name in {*history["metric"]}]
    blocks: tuple[Picture | Table, ...] = tuple(
        figures.learning_curves({package.ref: history}, None, name) for name in names
    )
    numbers: dict[str, Cell] = {
        "from": evaluation.parent,
        "teacher": evaluation.teacher,
        "learning rate": evaluation.learning_rate,
        "why": evaluation.reason,
        "steps": evaluation.steps,
        "step of the weights that were taken": evaluation.best_step,
        "steps skipped (a loss or gradient was not finite)": evaluation.skipped_steps,
        "seconds": evaluation.seconds,
        "workers": evaluation.world,
        "share of unknown tokens": max(evaluation.unknown_shares.values(), default=None),
        "heads dropped": ", ".join(evaluation.dropped_heads) or None,
        "heads kept, not trained": ", ".join(evaluation.kept_heads) or None,
    }
    blocks += (
        _metrics(evaluation),
        Table.of_figures(numbers),
        *_trials(evaluation),
        *_grid(evaluation),
    )
    yield Section(
        f"Fine-tuning of {package.name}",
        f"The weights are those of the epoch with the best {evaluation.watched} on validation "
        "rows. Figures are of test rows, with 95 % intervals.",
        blocks,
    )


def _metrics(evaluation: FinetuneEvaluation) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (task.task.head, name, found.value, found.low, found.high, task.rows.get("test"))
        for task in evaluation.tasks
        for name, found in task.test.items()
        if not name.startswith(PER_LABEL)
    ]
    return Table(("head", "metric", "value", "95 % from", "to", "rows"), tuple(rows))


def _trials(evaluation: FinetuneEvaluation) -> tuple[Table, ...]:
    if not evaluation.trials:
        return ()
    rows = [
        (trial.learning_rate, trial.steps, ", ".join(f"{score:.3f}" for score in trial.scores))
        for trial in evaluation.trials
    ]
    return (Table(("tried learning rate", "steps", "score after each round"), tuple(rows)),)


def _grid(evaluation: FinetuneEvaluation) -> tuple[Table, ...]:
    """Return the trials of a grid search, the one whose values were taken first."""
    if not evaluation.grid:
        return ()
    rows = [
        (
            trial.values.learning_rate,
            trial.values.global_batch_size,
            trial.values.epochs,
            ", ".join(f"{score:.3f}" for score in trial.scores),
            trial.steps,
            trial.seconds,
            trial.error,
        )
        for trial in evaluation.grid
    ]
    score = f"{evaluation.watched} after each epoch"
    columns = ("learning rate", "batch", "epochs", score, "steps", "seconds", "failed")
    return (Table(columns, tuple(rows), highlight=0),)


def run_sections(folder: Path) -> list[Section]:
    """Return the answers to test rows that a fine-tuning run stored beside its package.

    Raises:
        IntegrityError: They are damaged.
    """
    if not (folder / ANSWERS_FILE).is_file():
        return []
    heads = read_model(folder / ANSWERS_FILE, StoredAnswers).heads
    return [
        section
        for head, report in heads.items()
        for section in answer_sections(report, f" of {head}" if len(heads) > 1 else "")
    ]


def suite_section(package: Package) -> Iterator[Section]:
    """Yield every promise of a package, how it was kept, and what the gate decided.

    Raises:
        IntegrityError: Its suite is damaged.
    """
    suite = read_suite(package)
    if suite is None or not suite.exams:
        return
    manifest = package.manifest
    decision = "Accepted: no promise is broken."
    if package.rejected:
        decision = f"Rejected: {'; '.join(manifest.reasons)}"
    yield Section(
        "Suite",
        " ".join([decision, *suite.notes]),
        (_exams(suite), *_drops(suite)),
    )


def _exams(suite: Suite) -> Table:
    heads = list(suite.exams)
    rows = [
        (head, exam.task.kind, exam.status, exam.rows, exam.primary, _shown(exam), exam.reason)
        for head, exam in suite.exams.items()
    ]
    columns = ("head", "kind", "status", "rows", "metric", "value (95 %)", "why not")
    default = heads.index(suite.default) if suite.default in heads else None
    return Table(columns, tuple(rows), highlight=default)


def _shown(exam: Exam) -> str:
    found: Figure | None = exam.metrics.get(exam.primary)
    if found is None or pd.isna(found.value):
        return "undefined"
    return interval(found)


def _drops(suite: Suite) -> tuple[Table, ...]:
    """Return the paired drops that the gate judged; none where nothing was promised before."""
    rows = [
        (head, exam.parent, name, found.parent, found.drop, found.bound, found.lost, found.gained)
        for head, exam in suite.exams.items()
        for name, found in exam.differences.items()
        if name == exam.primary
    ]
    columns = ("head", "parent", "metric", "parent's", "drop", "95 % bound", "lost", "gained")
    return (Table(columns, tuple(rows)),) if rows else ()
