"""The continual-learning job: package and task stream in, package and accuracy matrix out."""

import logging
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import JobResult
from orchestrator.continual.config import ContinualConfig
from orchestrator.errors import InputError, InterruptedRunError
from orchestrator.storage import RunFolder
from orchestrator.zoo import Package, Zoo

if TYPE_CHECKING:
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.continual.stages import Stages

logger = logging.getLogger(__name__)

STAGE = "continual"
WORKER = "orchestrator.continual.worker:run"
LEFTOVERS = ("checkpoints", "stream")


def check(config: ContinualConfig) -> str:
    """Return what the job would do: model, memory, steps. Starts nothing.

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
    """
    package = starting_package(config)
    with RunFolder.open(config, STAGE) as folder:
        finished = folder.finished()
        if finished is not None:
            return finished
        package = _pinned(folder, config, package)
        stages = _learn(folder, config, package)
        result = _commit(folder, config, package, stages)
        folder.finish(result)
        for name in LEFTOVERS:
            shutil.rmtree(folder.path / name, ignore_errors=True)
        return result


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


def _pinned(folder: RunFolder, config: ContinualConfig, package: Package) -> Package:
    """Return the package the run began with, though its alias may have moved since."""
    pinned = folder.done("package")
    if pinned is None:
        folder.mark("package", {"ref": package.ref, "run_id": uuid.uuid4().hex})
        return package
    return package if pinned["ref"] == package.ref else Zoo(config.run.zoo).get(pinned["ref"])


def _learn(folder: RunFolder, config: ContinualConfig, package: Package) -> "Stages":
    """Launch the workers for the units that are not finished."""
    from orchestrator.continual.stages import Stages
    from orchestrator.continual.stream import units_of
    from orchestrator.continual.worker import STREAM_FOLDER

    stages = Stages(folder.path / STREAM_FOLDER, units_of(config))
    if stages.finished() == len(stages.units):
        return stages
    outcome = _launch(folder, config, package, stages)
    if outcome["stopped"]:
        raise InterruptedRunError(
            f"stopped with {outcome['finished']} of {len(stages.units)} tasks learned; what was "
            "done is saved. Start the same command again to continue."
        )
    return stages


def _launch(
    folder: RunFolder, config: ContinualConfig, package: Package, stages: "Stages"
) -> dict[str, Any]:
    from orchestrator.cluster.launcher import launch
    from orchestrator.cluster.observe.metrics import TrainingMetrics
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.cluster.session import session_for
    from orchestrator.data.rows.tasks import load_task

    zoo = config.run.zoo
    payload = {
        "config": config.model_dump(mode="json"),
        "zoo": zoo if "://" in zoo else str(Path(zoo).resolve()),
        "package": package.ref,
    }
    with session_for(config.cluster):
        cache = None if config.cache is None else Path(config.cache)
        for task in config.tasks:  # bad data is found, and parsed data cached, before workers start
            load_task(task.spec, cache)
        metrics = TrainingMetrics(STAGE)
        with Progress(STAGE, sum(unit.steps for unit in stages.units)) as progress:

            def observe(event: dict[str, Any]) -> None:
                _show(event, progress)
                if event["event"] == "metrics":
                    metrics.observe(config.run.name, event)

            return launch(
                WORKER,
                payload,
                cluster=config.cluster,
                engine=config.engine,
                run_dir=folder.path,
                name=f"{STAGE} {config.run.name}",
                on_event=observe,
            )


def _show(event: dict[str, Any], progress: "Progress") -> None:
    """Show one event of the workers to the person who waits."""
    if event["event"] == "metrics" and event["split"] == "train":
        loss = event["metrics"].get("loss", float("nan"))  # none of an interval may be finite
        progress.update(event["step"], f"{event['task']}  loss {loss:.3f}")
    elif event["event"] == "unit":
        learned = ", ".join(f"{name} {value:.3f}" for name, value in event["accuracy"].items())
        logger.info("task=%s learned: %s", event["task"], learned)
    elif "message" in event:
        logger.warning("%s", event["message"])


def _commit(
    folder: RunFolder, config: ContinualConfig, package: Package, stages: "Stages"
) -> JobResult:
    """Make the package, once, then move the alias if it may move."""
    from orchestrator.continual.outcome import Outcome, write_package

    outcome = Outcome.read(config, package, stages)
    pinned = folder.done("package") or {}
    zoo = Zoo(config.run.zoo)
    committed = _committed(zoo, config.output, pinned["run_id"])
    if committed is None:
        producer = {"stage": STAGE, "job": config.run.name, "run_id": pinned["run_id"]}
        with zoo.draft(
            config.output,
            kind="continual",
            producer=producer,
            parents=[package.ref],
            task=outcome.task,
            metrics=outcome.metrics,
            licence=package.manifest.licence,
        ) as draft:
            write_package(draft.path, outcome)
            committed = draft.commit()
    if outcome.metrics["promotion"] == "promoted" and config.promotion.alias is not None:
        zoo.promote(committed.ref, config.promotion.alias)
    logger.info("accuracy matrix (%s):\n%s", outcome.scenario, outcome.table())
    for head in outcome.metrics["unwatched_heads"]:
        logger.warning(
            "head %s of %s is kept, but what it forgot is not known: its data is no task of this "
            "stream",
            head,
            package.ref,
        )
    return JobResult(package=committed.ref, metrics=outcome.metrics, run_dir=str(folder.path))


def _committed(zoo: Zoo, name: str, run_id: str) -> Package | None:
    """Return the package if a run that was killed right after committing left one."""
    for package in zoo.packages():
        extra = package.manifest.producer.model_extra or {}
        if package.name == name and extra.get("run_id") == run_id:
            return package
    return None
