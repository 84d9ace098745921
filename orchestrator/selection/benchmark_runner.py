"""The benchmark job: the cells of the performance matrix that are missing, and their training."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import JobResult
from orchestrator.errors import InputError, StageError
from orchestrator.selection.candidates import (
    dataset_facts,
    form_of_source,
    model_facts,
    portable,
    protocol_of,
    require_usable,
    resolve_packages,
    sort_out,
)
from orchestrator.selection.config import BenchmarkConfig
from orchestrator.selection.costs.forecast import trial_lines
from orchestrator.selection.matrix.facts import DatasetFacts
from orchestrator.selection.matrix.files import read_matrix, write_matrix
from orchestrator.selection.matrix.performance import MeasuredCell, PerformanceMatrix
from orchestrator.selection.results import JournalRow
from orchestrator.selection.target_tasks import TargetTask, kind_of, label_form, target_task
from orchestrator.selection.trials.fine_tuning import TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.runner import (
    JOURNAL_NAME,
    remove_states,
    state_folder,
    train_trials,
    trial_session,
)
from orchestrator.storage import RunFolder
from orchestrator.storage.uris import absolute

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.zoo import Package

logger = logging.getLogger(__name__)

STAGE = "benchmark"


@dataclass(frozen=True)
class Cell:
    """One package to be fine-tuned on one data set.

    Attributes:
        trial: Trial id.
        package: Reference.
        dataset: Name of the task.
        spec: Its rows; local paths are absolute.
        asked: What is asked about them.
    """

    trial: str
    package: str
    dataset: str
    spec: "DatasetSpec"
    asked: TargetTask


@dataclass(frozen=True)
class BenchmarkPlan:
    """The whole plan of a benchmark.

    Attributes:
        matrix: The matrix with all rows and columns, and the cells measured before.
        cells: The cells to train.
        zoo: The zoo; a local path is absolute.
    """

    matrix: PerformanceMatrix
    cells: tuple[Cell, ...]
    zoo: str


def check(config: BenchmarkConfig) -> str:
    """The plan in words; needs no cluster and reads no rows."""
    return describe_benchmark(config)


def run(config: BenchmarkConfig) -> JobResult:
    """Fine-tune every package on every data set and complete the matrix file; resumable.

    Raises:
        InputError: Packages, data or CPUs are missing.
        StageError: No trial finished.
    """
    with RunFolder.open(config, STAGE) as folder:
        if (done := folder.finished()) is not None:
            return done
        plan = plan_benchmark(config)
        journal = Journal(folder.path / JOURNAL_NAME)
        _train_cells(config, plan, journal)
        matrix = complete_matrix(plan, journal, config.fine_tune.epochs)
        finals = matrix.normalized()
        if finals.isna().all(axis=None):
            raise StageError(
                "benchmark: no trial finished; the reasons are in "
                f"{journal.path}. Remove the failing packages under another run.name."
            )
        write_matrix(matrix, config.matrix)
        result = JobResult(
            metrics={
                "models": len(finals),
                "datasets": len(finals.columns),
                "cells_trained": len(plan.cells),
                "cells_missing": len(matrix.missing()),
                "epochs": len(journal.rows),
                "steps": sum(row.steps for row in journal.rows),
                "matrix": config.matrix,
                "best": {str(name): str(finals[name].idxmax()) for name in finals.columns},
            },
            run_dir=str(folder.path),
        )
        folder.finish(result)
        remove_states(folder.path)
        return result


def _train_cells(config: BenchmarkConfig, plan: BenchmarkPlan, journal: Journal) -> None:
    """Train the cells that have no final row yet."""
    epochs = config.fine_tune.epochs
    ended = {row.trial for row in journal.rows if row.rung == epochs or row.error}
    payloads = {
        cell.trial: TrialPayload(
            trial=cell.trial,
            package=cell.package,
            zoo=plan.zoo,
            task=cell.spec,
            asked=cell.asked,
            fine_tune=config.fine_tune,
            seed=config.seed,
            precision=config.precision,
            gpus=config.cluster.gpus_per_worker,
            state=str(state_folder(journal.path.parent, cell.trial)),
        )
        for cell in plan.cells
        if cell.trial not in ended
    }
    if not payloads:
        return
    with trial_session(config.cluster, len(payloads)):
        errors = train_trials(
            payloads,
            journal,
            config.cluster,
            title=(STAGE, "benchmark"),
            total=len(plan.cells) * epochs,
        )
    for trial, error in errors.items():
        if error is not None:
            logger.warning("%s failed: %s", trial, error)
            rung = len(journal.of(trial)) + 1
            journal.append(JournalRow(trial=trial, rung=rung, validation=None, error=error))


def plan_benchmark(config: BenchmarkConfig) -> BenchmarkPlan:
    """Resolve packages and data, and find the cells that the matrix file lacks.

    Raises:
        InputError: A package or data set cannot be used, or a column was measured on other rows or
            with other settings.
    """
    from orchestrator.data.sources.opening import load_task
    from orchestrator.tasks.base import form_of
    from orchestrator.zoo import Zoo

    zoo = Zoo(config.run.zoo)
    packages, everything = resolve_packages(zoo, config.packages), zoo.packages()
    known = read_matrix(config.matrix) if Path(config.matrix).is_file() else PerformanceMatrix()
    matrix = known
    for package in packages:
        matrix = matrix.add_model(package.ref, model_facts(package, everything))
    cells: list[Cell] = []
    for spec in config.datasets:
        kind = kind_of(spec, config.task)
        task = load_task(spec, form=label_form(kind))
        asked = target_task(task, kind, config.task, config.metric)
        if any(cell.dataset == task.name for cell in cells):
            raise InputError(f"datasets: two of them are named {task.name!r}; rename one.")
        protocol = protocol_of(config.fine_tune, config.seed, config.precision)
        facts = dataset_facts(task, protocol, asked)
        _require_same_column(known, task.name, facts, config.matrix)
        matrix = matrix.add_dataset(task.name, facts)
        usable, failed = sort_out(packages, form_of(task.train))
        require_usable(usable, failed, task.name)
        for ref, reason in failed.items():
            logger.warning("no cell for %s on %s: %s", ref, task.name, reason)
        cells += _missing(known, usable, task, portable(spec), asked)
    return BenchmarkPlan(matrix, tuple(cells), absolute(config.run.zoo))


def complete_matrix(plan: BenchmarkPlan, journal: Journal, epochs: int) -> PerformanceMatrix:
    """The matrix with every cell whose trial finished; failed trials leave gaps with a reason."""
    measured: list[MeasuredCell] = []
    for cell in plan.cells:
        rows = sorted(journal.of(cell.trial), key=lambda row: row.rung)
        done = [row for row in rows if row.validation is not None]
        curve, seconds = [row.validation for row in done], [row.seconds for row in done]
        place = cell.package, cell.dataset
        if len(curve) == epochs and rows[-1].test is not None:
            startup = rows[0].startup_s or None
            measured.append(MeasuredCell(*place, curve, rows[-1].test, seconds, startup))
        else:
            reason = next((row.error for row in rows if row.error), "not finished")
            short = [*curve, *[None] * (epochs - len(curve))]
            measured.append(MeasuredCell(*place, short, None, seconds, reason=reason))
            logger.warning("no cell for %s on %s: %s", cell.package, cell.dataset, reason)
    return plan.matrix.add_cells(measured)


def describe_benchmark(config: BenchmarkConfig) -> str:
    """The plan in words; of each data set at most the first row is read.

    Raises:
        InputError: A package is not in the zoo, or a data set cannot be read or trained on.
        IntegrityError: The matrix exists and cannot be read.
    """
    from orchestrator.zoo import Zoo

    packages = resolve_packages(Zoo(config.run.zoo), config.packages)
    exists = Path(config.matrix).is_file()
    if exists:
        read_matrix(config.matrix)
    cells, left_out = 0, list[str]()
    for spec in config.datasets:
        kind_of(spec, config.task)
        usable, failed = sort_out(packages, form_of_source(spec))
        require_usable(usable, failed, spec.source)
        cells += len(usable)
        left_out += [f"  left out: {ref} on {spec.source}: {why}" for ref, why in failed.items()]
    sizes = sum(package.manifest.total_bytes for package in packages) / 2**20
    lines = [
        f"benchmark {config.run.name}: {len(packages)} packages x {len(config.datasets)} data sets",
        *(f"  {package.ref} ({package.kind})" for package in packages),
        *(f"  {spec.source}" for spec in config.datasets),
        *left_out,
        *trial_lines(config.cluster),
        f"  {cells} cells x {config.fine_tune.epochs} epochs = "
        f"{cells * config.fine_tune.epochs} epochs; packages {sizes:.1f} MiB",
        f"  matrix: {config.matrix}"
        + (" (exists: only missing cells are trained)" if exists else ""),
    ]
    return "\n".join(lines)


def _missing(
    known: PerformanceMatrix,
    packages: list["Package"],
    task: "TaskData",
    spec: "DatasetSpec",
    asked: TargetTask,
) -> list[Cell]:
    """Cells that the matrix lacks, or that were measured on another package of that name."""
    finals = known.final()
    cells = []
    for package in packages:
        same = known.models.get(package.ref)
        measured = (
            same is not None
            and same.manifest_sha256 == package.manifest_sha256
            and task.name in finals.columns
            and bool(finals.notna().loc[package.ref, task.name])
        )
        if not measured:
            trial = f"{package.ref} on {task.name}"
            cells.append(Cell(trial, package.ref, task.name, spec, asked))
    return cells


def _require_same_column(
    known: PerformanceMatrix, name: str, facts: DatasetFacts, file: str
) -> None:
    column = known.datasets.get(name)
    if column is None:
        return
    for what, now, before in (
        ("rows", facts.digest, column.digest),
        ("fine-tuning settings", facts.protocol, column.protocol),
        (f"metrics ({column.metric})", facts.metric, column.metric),
    ):
        if before and now != before:
            raise InputError(
                f"{file}: its column {name!r} was measured with other {what}. Scores of one "
                "column must be comparable: use the same config, or another matrix file."
            )
