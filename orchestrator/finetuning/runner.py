"""The fine-tuning job: package and labelled data in, package out."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from orchestrator.config import JobResult, StrictModel, dump_yaml
from orchestrator.data.processors.tokenizer_files import FILES
from orchestrator.errors import InterruptedRunError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.results import (
    EVALUATION,
    FinetuneEvaluation,
    GridResult,
    LaunchResult,
    Summary,
)
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.zoo import Package, Zoo, commit_once, committed
from orchestrator.zoo.stage import conclude

if TYPE_CHECKING:
    from orchestrator.cluster.observe.watch import Watcher
    from orchestrator.finetuning.inputs import FinetuneInputs
    from orchestrator.zoo.draft import Draft

logger = logging.getLogger(__name__)

STAGE = "finetune"
SEARCH = "search"
"""Step of the run that records a finished grid search."""
WORKER = "orchestrator.finetuning.worker:finetune"
EXPORT, HISTORY = "export", "history.parquet"
EXPORTED = (
    "config.json", "model*.safetensors*", "tokenizer*.json", "*_config.json", "chat_template.*",
    *FILES, HISTORY,
)  # fmt: skip
"""Patterns of the files that become the package."""
"""Modalities as manifests name them; all other rows are texts."""
LEFTOVERS = (EXPORT, "best", "checkpoints", "grid", "tune")
"""Folders that only an unfinished run needs."""


class Start(StrictModel):
    """The package that a run began with: its alias may have moved since."""

    package: str
    """Reference with its version."""
    teacher: str | None = None
    """Reference of the teacher with its version."""


def check(config: FinetuneConfig) -> str:
    """Return what the job would do: rows, classes, head, learning rate, steps, memory.

    Raises:
        InputError: The package or the data is not there, or they do not fit together.
    """
    from orchestrator.finetuning.inputs import resolve
    from orchestrator.finetuning.plan import describe

    config.tracking.require_installed()
    return describe(resolve(config, Zoo(config.run.zoo).get(config.package)))


def run(config: FinetuneConfig) -> JobResult:
    """Fine-tune, or continue where an earlier call stopped, and commit the package.

    Raises:
        InputError: The package, the data or the CPUs are not there; the run is in use.
        InterruptedRunError: Stopped after a checkpoint; the same call continues.
        RefusedError: The package is committed as rejected: it keeps heads, and one of them fell.
        StageError: The workers failed more often than allowed.
    """
    inputs = None
    if not (Path(config.run.dir) / config.run.name).exists():
        zoo = Zoo(config.run.zoo)
        inputs = _resolve(config, zoo, _start(config, zoo))  # refused before anything is written
    with RunFolder.open(config, STAGE) as folder:
        finished = folder.finished()
        if finished is not None:
            return finished
        package = committed(folder, config.output) or _make(folder, config, inputs)
        return conclude(folder, package, leftovers=[folder.path / name for name in LEFTOVERS])


def _make(folder: RunFolder, config: FinetuneConfig, inputs: "FinetuneInputs | None") -> Package:
    """Resolve the inputs of a run that goes on, train, commit."""
    from orchestrator.data.rows.same_rows import require_same_rows

    zoo = Zoo(config.run.zoo)
    start = folder.once("start", Start, lambda: _start(config, zoo))
    if inputs is None or start != _started(inputs):
        inputs = _resolve(config, zoo, start)
    require_same_rows(folder, {each.head: each.data for each in inputs.lessons})
    _announce(inputs)
    summary = _train(folder, inputs)
    evaluation = _evaluation(folder, inputs, summary)
    return commit_once(
        folder,
        config.output,
        kind="finetuned",
        parents=[inputs.package, *([] if inputs.teacher is None else [inputs.teacher])],
        task=_task(inputs),
        metrics=evaluation.figures(),
        licence=config.licence or inputs.package.manifest.licence,
        write=lambda draft: _write(folder, inputs, evaluation, draft),
    )


def _start(config: FinetuneConfig, zoo: Zoo) -> Start:
    """Resolve the references of the config to versions, once: aliases may move later."""
    teacher = None if config.teacher is None else zoo.get(config.teacher.package).ref
    return Start(package=zoo.get(config.package).ref, teacher=teacher)


def _started(inputs: "FinetuneInputs") -> Start:
    teacher = inputs.teacher
    return Start(package=inputs.package.ref, teacher=None if teacher is None else teacher.ref)


def _resolve(config: FinetuneConfig, zoo: Zoo, start: Start) -> "FinetuneInputs":
    from orchestrator.finetuning.inputs import resolve

    teacher = None if start.teacher is None else zoo.get(start.teacher)
    return resolve(config, zoo.get(start.package), teacher)


def _announce(inputs: "FinetuneInputs") -> None:
    """Say what was decided, before work starts."""
    from orchestrator.data.processors.unknown import unknown_note

    for lesson, detected in zip(inputs.lessons, inputs.detected, strict=True):
        logger.info(
            "task %s: %s (%s), %s training rows",
            lesson.head,
            detected.kind,
            detected.reason,
            f"{len(lesson.data.train):,}",
        )
    for head, share in inputs.unknown_shares.items():
        if (note := unknown_note(share)) is not None:
            logger.warning("task %s: %s", head, note)
    if inputs.dropped:
        logger.warning(
            "heads %s of %s are not in the result. Set keep_heads: true to keep them.",
            ", ".join(inputs.dropped),
            inputs.package.ref,
        )
    for head in inputs.renewed:
        logger.warning("head %s is made anew: the package has it for other labels.", head)


def _train(folder: RunFolder, inputs: "FinetuneInputs") -> Summary:
    """Search for values where that is asked for, then launch the workers.

    Raises:
        InterruptedRunError: Stopped before the end.
        StageError: No trial of the search has a score.
    """
    from orchestrator.cluster.launcher import launch
    from orchestrator.cluster.session import session_for
    from orchestrator.finetuning.grid import with_values
    from orchestrator.finetuning.grid_runner import search_grid
    from orchestrator.finetuning.inputs import job_of

    config = inputs.config
    with session_for(config.cluster):
        rate = inputs.usual_rate
        if isinstance(config.train.learning_rate, float):
            rate = type(rate)(config.train.learning_rate, "as the job says")
        if config.search is not None:
            search = partial(search_grid, folder, inputs, config.search, rate)
            trials = folder.once(SEARCH, GridResult, search, work=True).trials
            inputs = replace(inputs, config=with_values(config, trials[0].values))
            rate = type(rate)(trials[0].values.learning_rate, f"the best of {len(trials)} trials")
        logger.info("learning rate %g: %s", rate.value, rate.reason)
        job = job_of(inputs, folder.path, rate)
        with _watcher(folder, inputs) as watcher:
            found = launch(
                WORKER,
                job,
                LaunchResult,
                cluster=config.cluster,
                engine=config.engine,
                run_dir=folder.path,
                name=f"{STAGE} {config.run.name}",
                on_event=watcher.observe,
            )
    if isinstance(found.result, Summary):
        return found.result
    raise InterruptedRunError(
        f"stopped after step {found.result.step}, which is saved. Start the same command again to "
        "continue."
    )


@contextmanager
def _watcher(folder: RunFolder, inputs: "FinetuneInputs") -> "Iterator[Watcher]":
    """Show and record the events of the workers; tell MLflow how it ended."""
    from orchestrator.cluster.observe.tracking import Watched, open_mlflow
    from orchestrator.cluster.observe.watch import Watcher
    from orchestrator.finetuning.plan import steps_of

    config = inputs.config
    mlflow = open_mlflow(config, folder.id, Path(config.run.dir))
    watched = Watched(folder.path, steps_of(inputs), config.tracking, mlflow)
    try:
        with Watcher(STAGE, {config.run.name: watched}) as watcher:
            yield watcher
    except BaseException as error:
        if mlflow is not None:
            stopped = isinstance(error, InterruptedRunError | KeyboardInterrupt)
            mlflow.finish("KILLED" if stopped else "FAILED")
        raise
    if mlflow is not None:
        mlflow.finish("FINISHED")


def _evaluation(
    folder: RunFolder, inputs: "FinetuneInputs", summary: Summary
) -> FinetuneEvaluation:
    found = folder.done(SEARCH)
    return FinetuneEvaluation(
        **dict(summary),
        grid=() if found is None else GridResult.model_validate(found).trials,
        parent=inputs.package.ref,
        teacher=None if inputs.teacher is None else inputs.teacher.ref,
        unknown_shares=inputs.unknown_shares,
        dropped_heads=inputs.dropped,
        kept_heads=tuple(head.name for head in inputs.kept),
    )


def _task(inputs: "FinetuneInputs") -> dict[str, JsonValue]:
    """Return what the manifest says of inputs and answers."""
    from orchestrator.tasks.base import MODALITIES

    first = inputs.lessons[0]
    kept = {head.name: inputs.earlier[head.name] for head in inputs.kept}
    tasks = {lesson.head: lesson.task for lesson in inputs.lessons} | kept
    modality = MODALITIES.get(first.data.train.modality, "text")
    longest = min(inputs.config.train.max_length, inputs.model.max_position_embeddings)
    return {
        "kind": first.task.kind(),
        "modality": modality,
        "labels": {name: list(task.labels) for name, task in tasks.items() if task.labels},
        "max_length": longest if modality == "text" else None,
        "default": first.head,
    }


def _write(
    folder: RunFolder, inputs: "FinetuneInputs", evaluation: FinetuneEvaluation, draft: "Draft"
) -> None:
    """Write the files of the package, then measure them."""
    from orchestrator.inference.examination import examine_draft
    from orchestrator.tasks.base import build_task
    from orchestrator.tasks.suite import Learned

    config, export = inputs.config, folder.path / EXPORT
    for path in (path for pattern in EXPORTED for path in export.glob(pattern)):
        shutil.copyfile(path, draft.path / path.name)
    copy_statement(inputs.package.path, draft.path)
    (draft.path / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
    atomic_write_json(draft.path / EVALUATION, evaluation.model_dump(mode="json"))
    learned = {
        each.task.head: Learned(build_task(each.task), lesson.data, section.data)
        for each, lesson, section in zip(
            evaluation.tasks, inputs.lessons, config.lessons, strict=True
        )
    }
    examine_draft(
        draft,
        parent=inputs.package if config.keep_heads else None,
        learned=learned,
        default=inputs.lessons[0].head,
        promotion=config.promotion,
        config=config.suite,
        trained=True,
    )
