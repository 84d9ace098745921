"""The continual-learning job: package and task stream in, package and accuracy matrix out."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import JobResult
from orchestrator.continual.config import ContinualConfig, ContinualInputs
from orchestrator.continual.results import UnitLearned, WorkerResult
from orchestrator.errors import InputError, InterruptedRunError
from orchestrator.storage import RunFolder
from orchestrator.training.events import Event, Measurement, Notice
from orchestrator.zoo import Package, Zoo, commit_once, conclude
from orchestrator.zoo.draft import Draft

if TYPE_CHECKING:
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.continual.outcome import Outcome
    from orchestrator.continual.stages import Stages

logger = logging.getLogger(__name__)

STAGE = "continual"
WORKER = "orchestrator.continual.worker:run"
LEFTOVERS = ("checkpoints", "stream")
"""Folders that only an unfinished run needs."""


def check(config: ContinualConfig) -> str:
    """Return a description of the job: model, memory, steps. Starts nothing.

    Raises:
        InputError: The package or a file of a task is not there.
    """
    from orchestrator.continual.plan import describe

    return describe(config, starting_package(config))


def run(config: ContinualConfig) -> JobResult:
    """Learn the stream, or continue where an earlier call stopped, and commit the package.

    Raises:
        InputError: The package, a task or the CPUs are not there; the run is in use.
        InterruptedRunError: Stopped after a checkpoint; the same call continues.
        StageError: The workers failed more often than allowed.
        RefusedError: The package is committed, but its gate rejected it.
    """
    from orchestrator.continual.outcome import Outcome
    from orchestrator.continual.stages import Stages
    from orchestrator.continual.stream import Stream, units_of
    from orchestrator.continual.worker import STREAM_FOLDER
    from orchestrator.data.rows.same_rows import require_same_rows

    package = starting_package(config)
    with RunFolder.open(config, STAGE) as folder:
        finished = folder.finished()
        if finished is not None:
            return finished
        package = _pinned(folder, package)
        stream = Stream.load(config, package.path)  # bad data is found before workers start
        stream.require_labels(package)
        require_same_rows(folder, dict(zip(stream.titles, stream.tasks, strict=True)))
        for head in stream.unprotected_heads(package.path):
            logger.warning(
                "nothing protects head %s of %s: the stream does not learn its task, and the "
                "package keeps neither importance nor exemplars that the method uses",
                head,
                package.ref,
            )
        stages = Stages(folder.path / STREAM_FOLDER, units_of(config))
        if stages.finished() < len(stages.units):
            _learn(folder, config, package, stages)
        committed = _commit(folder, config, Outcome.read(config, package, stages, stream))
        leftovers = [folder.path / name for name in LEFTOVERS]
        return conclude(folder, committed, alias=config.promotion.alias, leftovers=leftovers)


def starting_package(config: ContinualConfig) -> Package:
    """Return the verified package to start from.

    Raises:
        InputError: There is none of that name, or it holds no weights that can be trained.
    """
    from orchestrator.modeling.package import has_weights

    package = Zoo(config.run.zoo).get(config.package)
    if not has_weights(package.manifest.files):
        raise InputError(
            f"package {package.ref} is of kind {package.kind!r} and holds no model.safetensors to "
            "train. Give a pretrained, finetuned or continual package"
        )
    return package


def _pinned(folder: RunFolder, package: Package) -> Package:
    """Return the package the run began with: its alias may have moved since."""
    pinned = folder.done("package")
    if pinned is None:
        folder.pin("package", {"ref": package.ref})
        return package
    zoo = Zoo(folder.config.run.zoo)
    return package if pinned["ref"] == package.ref else zoo.get(pinned["ref"])


def _learn(folder: RunFolder, config: ContinualConfig, package: Package, stages: "Stages") -> None:
    """Launch the workers for the units that are not finished.

    Raises:
        InterruptedRunError: Stopped before the last unit.
    """
    from orchestrator.cluster.launcher import launch
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.cluster.observe.watch import TrainingMetrics

    zoo = config.run.zoo
    absolute = zoo if "://" in zoo else str(Path(zoo).resolve())
    inputs = ContinualInputs(config=config, zoo=absolute, package=package.ref)
    metrics = TrainingMetrics(STAGE)
    with Progress(STAGE, sum(unit.steps for unit in stages.units)) as progress:

        def observe(event: Event) -> None:
            _show(event, progress)
            if isinstance(event, Measurement):
                metrics.record(config.run.name, event.step, event.split, event.metrics)

        result = launch(
            WORKER,
            inputs,
            WorkerResult,
            cluster=config.cluster,
            engine=config.engine,
            run_dir=folder.path,
            name=f"{STAGE} {config.run.name}",
            on_event=observe,
        )
    if result.stopped:
        raise InterruptedRunError(
            f"stopped with {result.finished} of {len(stages.units)} tasks learned; the work so far "
            "is saved. Start the same command again to continue."
        )


def _show(event: Event, progress: "Progress") -> None:
    """Show one event of the workers on the terminal or in the log."""
    if isinstance(event, Measurement) and event.split == "train":
        loss = event.metrics.get("loss", float("nan"))  # no loss of the interval may be finite
        progress.update(event.step, f"{event.run}  loss {loss:.3f}")
    elif isinstance(event, UnitLearned):
        accuracy = event.record.accuracy
        learned = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        logger.info("task=%s learned: %s", event.task, learned)
    elif isinstance(event, Notice):
        logger.warning("%s", event.message)


def _commit(folder: RunFolder, config: ContinualConfig, outcome: "Outcome") -> Package:
    """Make the package and examine it, once; what was promised before decides its status."""
    from orchestrator.continual.outcome import write_package
    from orchestrator.inference.examination import examine_draft
    from orchestrator.inference.protection import STATE_FILE

    package = outcome.package

    def write(draft: Draft) -> None:
        write_package(draft.path, outcome)
        suite = examine_draft(
            draft,
            parent=package,
            learned=outcome.stream.learned(),
            default=outcome.default,
            promotion=config.promotion,
            config=config.suite,
            trained=not (draft.path / STATE_FILE).is_file(),  # a method without importance
        )
        draft.reasons += outcome.refusals()
        judged = outcome.judged(draft.reasons, suite)
        draft.metrics = judged.summary.model_dump(mode="json")

    committed = commit_once(
        folder,
        config.output,
        kind="continual",
        write=write,
        parents=[package.ref],
        task=outcome.task.model_dump(),
        metrics=outcome.summary.model_dump(mode="json"),
        licence=package.manifest.licence,
    )
    logger.info("accuracy matrix (%s):\n%s", outcome.scenario, outcome.table())
    return committed
