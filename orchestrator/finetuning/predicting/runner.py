"""``orchestrator predict``: a package and a table in, the table with answers out, on Ray Data.

Ray Data streams pieces (names and numbers) to actors that hold the model, and starts those again
whose process or node is lost. Answers go to files that each worker commits by itself, see
``predicting.parts``: a killed job continues with the parts that are missing.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.cluster.observe.progress import Progress
from orchestrator.cluster.session import session_for
from orchestrator.config import JobResult, did_you_mean
from orchestrator.data.processors.unknown import unknown_note
from orchestrator.data.rows.forms.choice import choices_reader
from orchestrator.data.sources.contents import PAIR_COLUMNS, TEXT_COLUMNS
from orchestrator.data.sources.lines import REPAIRED
from orchestrator.errors import InputError, IntegrityError, OrchestratorError, StageError
from orchestrator.finetuning.predicting.config import PredictConfig
from orchestrator.finetuning.predicting.inputs import (
    MEDIA,
    PATH_COLUMN,
    Survey,
    find_inputs,
    survey,
)
from orchestrator.finetuning.predicting.parts import PartJob, PartWorker, finished_part, plan_digest
from orchestrator.finetuning.predicting.results import (
    PLAN,
    STATE,
    SUMMARY,
    PartDone,
    Piece,
    PredictPlan,
    PredictSummary,
)
from orchestrator.inference.heads import default_head, package_tasks, require_head
from orchestrator.modeling.sentence.statement import read_statement
from orchestrator.storage import RunFolder, atomic_write_json, read_model
from orchestrator.tasks.base import AnyTask
from orchestrator.zoo import Package, Zoo

STAGE: Final = "predict"
QUIET: Final = ("ray.data", "ray.data._internal")

logger = logging.getLogger(__name__)


def run(config: PredictConfig) -> JobResult:
    """Answer every row of the input.

    Raises:
        InputError: Package, input and output do not fit; nothing is written.
        StageError: A worker failed again and again.
    """
    plan = prepare(config)
    output = Path(config.output).absolute()
    digest = plan_digest(plan)
    with RunFolder.open(config, STAGE) as folder:
        _claim(output, plan)
        done = {
            piece.number: part
            for piece in plan.pieces
            if (part := finished_part(output, digest, piece.number)) is not None
        }
        waiting = [piece for piece in plan.pieces if piece.number not in done]
        began = time.perf_counter()
        if waiting:
            fresh = _answer(config, output, plan, waiting)
            done |= {part.number: part for part in fresh}
        seconds = time.perf_counter() - began
        summary = _summary(plan, list(done.values()))
        atomic_write_json(output / SUMMARY, summary)
        earlier = folder.finished()
        if earlier is not None and not waiting:
            return earlier
        answered = sum(done[piece.number].rows for piece in waiting)
        result = JobResult(
            package=plan.package,
            metrics={
                "output": str(output),
                "rows": summary.rows,
                "rejected": sum(summary.rejected.values()),
                "parts": summary.parts,
                "rows_per_second": answered / seconds if waiting else 0.0,
            },
            run_dir=str(folder.path),
        )
        folder.finish(result)
    if summary.repaired:
        logger.warning("%d × %s", summary.repaired, REPAIRED)
    if (note := unknown_note(summary.unknown_share)) is not None:
        logger.warning("%s: %s", config.input, note)
    if summary.rejected:
        logger.warning("event=rows_rejected output=%s reasons=%s", output, summary.rejected)
    return result


def check(config: PredictConfig) -> str:
    """Describe the job after reading the input once."""
    plan = prepare(config)
    return (
        f"{plan.package} (head {plan.head!r}) answers column {plan.text_column!r} of "
        f"{len(plan.files)} {plan.source} files in {len(plan.pieces)} pieces → {config.output}"
    )


def prepare(config: PredictConfig) -> PredictPlan:
    """Read package and input, and plan the job.

    Raises:
        InputError: They do not fit one another, or the output folder belongs to other answers.
    """
    package = Zoo(config.run.zoo).get(config.package)
    tasks = package_tasks(package)
    task = None
    if config.answers:
        task = require_head(package.ref, tasks, default_head(package, tasks), config.target)
    _require_prompt(package, config.prompt)
    found = survey(find_inputs(config.input), config.piece_rows)
    text, pair = _columns(config, found, task)
    _require_modality(package.ref, found, pair, task)
    plan = PredictPlan(
        package=package.ref,
        package_sha256=package.manifest_sha256,
        head=None if task is None else task.head,
        labels=() if task is None else task.labels,
        embedding=config.embedding,
        prompt=config.prompt,
        format=config.format,
        prefix=config.prefix,
        max_length=config.max_length,
        source=found.source,
        text_column=text,
        pair_column=pair,
        columns=found.columns,
        files=found.files,
        pieces=found.pieces,
    )
    taken = [name for name in found.columns if name.startswith(config.prefix)]
    if taken:
        raise InputError(
            f"prefix: columns of the input begin with {config.prefix!r} already: "
            f"{', '.join(taken)}. Choose another prefix for the answers."
        )
    _require_own(Path(config.output).absolute(), plan)
    return plan


def _require_prompt(package: Package, name: str | None) -> None:
    """Refuse a prompt that the package does not state."""
    if not name:
        return
    statement = read_statement(package.path)
    if statement is None:
        raise InputError(f"prompt: {package.ref} states no prompts. Leave it out.")
    statement.prompt(name)


def _require_modality(ref: str, found: Survey, pair: str | None, task: AnyTask | None) -> None:
    """Refuse rows that the task does not read."""
    given = {"picture": "image", "sound": "audio"}.get(found.source, "pair" if pair else "text")
    if task is not None and "choices" in task.modalities and given in ("pair", "text"):
        return  # _columns has found the candidates
    if task is not None and given not in task.modalities:
        raise InputError(
            f"input: head {task.head!r} of {ref} answers rows of "
            f"{' or '.join(sorted(task.modalities))}, these are of {given}."
        )


def _columns(config: PredictConfig, found: Survey, task: AnyTask | None) -> tuple[str, str | None]:
    """Return the columns of the text and of the second text."""
    if found.source in MEDIA:
        if config.text_column is not None or config.pair_column is not None:
            raise InputError("text_column: a folder of images or sounds has no columns.")
        return PATH_COLUMN, None
    form = None if task is None else task.form()
    usual = TEXT_COLUMNS if form is None else form.text_columns
    second = PAIR_COLUMNS if form is None else form.pair_columns
    text = _column(config.text_column, usual, found, "text_column")
    pair = _column(config.pair_column, second, found, "pair_column")
    if task is not None and "choices" in task.modalities:
        choices_reader(found.columns, Path(found.files[0].path), {text, pair})
        usual = (*second, *usual)
        text, pair = (text, pair) if text else (pair, None)  # questions need no context
    if text is None:
        raise InputError(
            f"input: no column called {', '.join(usual)}. Name one with text_column. Columns: "
            f"{', '.join(found.columns)}."
        )
    for option, name in (("text_column", text), ("pair_column", pair)):
        if name is not None and found.columns[name] in ("bool", "int", "float"):
            raise InputError(
                f"{option}: column {name!r} holds values of type {found.columns[name]}, not texts."
                f" Columns: {', '.join(found.columns)}."
            )
    return text, pair if pair != text else None


def _column(wanted: str | None, usual: Sequence[str], found: Survey, option: str) -> str | None:
    names = list(found.columns)
    if wanted is None:
        return next((name for name in usual if name in names), None)
    if wanted not in names:
        raise InputError(
            f"{option}: no column {wanted!r}. {did_you_mean(wanted, names, 'Columns')}"
        )
    return wanted


def _require_own(output: Path, plan: PredictPlan) -> None:
    """Refuse an output folder that holds anything but answers of this plan."""
    if output.exists() and not output.is_dir():
        raise InputError(f"output: {output} is a file. Give a folder.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    try:
        before = read_model(output / STATE / PLAN, PredictPlan)
    except (FileNotFoundError, IntegrityError):
        raise InputError(
            f"output: {output} is not empty and holds no answers of predict. Give a new folder."
        ) from None
    different = [
        name for name in PredictPlan.model_fields if getattr(before, name) != getattr(plan, name)
    ]
    if different:
        raise InputError(
            f"output: {output} holds answers of another job; these differ: {', '.join(different)}. "
            "Give a new folder."
        )


def _claim(output: Path, plan: PredictPlan) -> None:
    """Write the plan into the output folder, unless it is there."""
    (output / STATE).mkdir(parents=True, exist_ok=True)
    if not (output / STATE / PLAN).is_file():
        atomic_write_json(output / STATE / PLAN, plan)


def _summary(plan: PredictPlan, parts: Sequence[PartDone]) -> PredictSummary:
    rejected = sum((Counter(part.rejected) for part in parts), Counter[str]())
    shares = [(part.rows, part.unknown_share) for part in parts if part.unknown_share is not None]
    read = max(sum(rows for rows, _ in shares), 1)
    return PredictSummary(
        package=plan.package,
        package_sha256=plan.package_sha256,
        rows=sum(part.rows for part in parts),
        rejected=dict(sorted(rejected.items())),
        repaired=sum(part.repaired for part in parts),
        unknown_share=sum(n * share for n, share in shares) / read if shares else None,
        parts=len(parts),
        labels=plan.labels,
    )


def _answer(
    config: PredictConfig, output: Path, plan: PredictPlan, waiting: Sequence[Piece]
) -> list[PartDone]:
    """Answer the waiting pieces on the cluster."""
    workers = min(config.cluster.workers, len(waiting))
    job = PartJob(
        output=str(output),
        zoo=Zoo(config.run.zoo).root,
        threads=config.threads,
        device="cuda" if config.cluster.gpus_per_worker else "cpu",
    )
    parts = []
    rows = 0
    began = time.perf_counter()
    with (
        session_for(config.cluster, workers),
        Progress("predict", len(waiting), "piece") as progress,
    ):
        progress.update(0)
        for part in through_ray(job, waiting, config, workers):
            parts.append(part)
            rows += part.rows
            speed = rows / (time.perf_counter() - began)
            progress.update(len(parts), f"{rows:,} rows, {speed:,.0f} rows/s")
    return parts


def through_ray(
    job: PartJob, pieces: Sequence[Piece], config: PredictConfig, workers: int
) -> Iterator[PartDone]:
    """Yield finished parts, in any order.

    Raises:
        StageError: An actor died more often than ``cluster.max_failures`` allows.
    """
    import ray.data
    from ray.exceptions import RayError

    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    items = [{"piece": piece.model_dump_json()} for piece in pieces]
    cluster = config.cluster
    results = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Actor,
        fn_constructor_kwargs={"job": job.model_dump_json()},
        num_cpus=cluster.cpus_per_worker,
        num_gpus=cluster.gpus_per_worker,
        label_selector=cluster.labels,
        compute=ray.data.ActorPoolStrategy(size=workers),
        max_restarts=cluster.max_failures,
        max_task_retries=cluster.max_failures,
    )
    try:
        for row in results.iter_rows():
            yield _part(row["part"])
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StageError(
            f"a worker failed while it answered rows: {lines[-1]}. Finished parts stay; start the "
            "same command again to continue."
        ) from error


class _Actor:
    """A process that holds the model."""

    def __init__(self, job: str) -> None:
        self._worker: PartWorker | None = None
        self._job = PartJob.model_validate_json(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            self._worker = self._worker or PartWorker(self._job)
            part = self._worker(Piece.model_validate_json(row["piece"]))
        except OrchestratorError as error:
            return {"part": f"{type(error).__name__}\n{error}"}
        return {"part": part.model_dump_json()}


def _part(text: str) -> PartDone:
    if text.startswith("{"):
        return PartDone.model_validate_json(text)
    kind, _, message = text.partition("\n")
    known: dict[str, type[OrchestratorError]] = {
        "InputError": InputError,
        "IntegrityError": IntegrityError,
    }
    raise known.get(kind, StageError)(message)
