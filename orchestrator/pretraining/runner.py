"""The pre-training job: corpus, launch, package."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from orchestrator.config import JobResult
from orchestrator.errors import InputError, IntegrityError, InterruptedRunError
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.results import LaunchResult, Summary
from orchestrator.pretraining.state import EVALUATIONS, PretrainJob, PretrainPayload, Start
from orchestrator.storage import RunFolder
from orchestrator.storage.remote.mirror import local_copy, local_folder
from orchestrator.storage.uris import local_path
from orchestrator.zoo import Package, Zoo, commit_once, committed
from orchestrator.zoo.stage import Description, draft_of

if TYPE_CHECKING:
    from orchestrator.cluster.checkpoints.reading import Checkpoint
    from orchestrator.cluster.checkpoints.store import CheckpointFolder
    from orchestrator.cluster.observe.mlflow_run import MlflowRun
    from orchestrator.cluster.observe.tracking import Watched
    from orchestrator.pretraining.inputs import PretrainInputs
    from orchestrator.zoo.draft import Draft

logger = logging.getLogger(__name__)

STAGE = "pretrain"
WORKER = "orchestrator.pretraining.worker:pretrain_all"
CORPORA = "corpora"
EXPORT = "export"


def check(config: PretrainConfig) -> str:
    """Return what the job would do: sizes, memory, steps. Starts nothing.

    Raises:
        ConfigError: The model does not fit together.
        InputError: The corpus or the tokenizer is not there.
    """
    from orchestrator.pretraining.plan import describe, make_plan
    from orchestrator.pretraining.starting import start_line

    config.tracking.require_installed()
    return "\n".join([describe(make_plan(config)), *start_line(config, _source(config))])


def run(config: PretrainConfig) -> JobResult:
    """Pre-train one model, or continue where an earlier call stopped.

    Raises:
        InputError: Not enough CPUs, no corpus, the run is in use.
        InterruptedRunError: Stopped after a checkpoint; the same call continues.
        StageError: The workers failed more often than allowed.
    """
    return run_all([config])[0]


def run_all(configs: Sequence[PretrainConfig]) -> list[JobResult]:
    """Pre-train several models one after the other on one group of workers.

    The same as calling :func:`run` for each, without starting workers for each: that takes longer
    than training a small model. Each config keeps its own run folder and package.

    Args:
        configs: Jobs with different run names and the same cluster section.

    Raises:
        InputError: The cluster sections differ, and whatever :func:`run` raises.
    """
    _require_one_group(configs)
    with ExitStack() as stack:
        works = [_Work(config, stack.enter_context(open_run(config))) for config in configs]
        for work in works:
            work.recover()
        pending = [work for work in works if work.run.finished() is None]
        if pending:
            _train(pending)
        return [work.result() for work in works]


def open_run(config: PretrainConfig) -> RunFolder:
    """Take the folder of a job's run; prolonging a finished one removes what it exported."""
    return RunFolder.open(config, STAGE, (EXPORT,))


def _require_one_group(configs: Sequence[PretrainConfig]) -> None:
    if any(config.cluster != configs[0].cluster for config in configs):
        raise InputError("jobs that share workers must have the same cluster section")


def _source(config: PretrainConfig) -> "Package | Checkpoint | None":
    """Find where a run starts; reads no weights.

    Raises:
        InputError: There is no such package, run or checkpoint.
    """
    start = config.train.start_from
    if start is None:
        return None
    if start.package is not None:
        return Zoo(config.run.zoo).get(start.package)
    from orchestrator.cluster.checkpoints.branching import find_checkpoint

    return find_checkpoint(start.path or f"{config.run.dir}/{start.run}", start.step)


def _train(works: Sequence["_Work"]) -> None:
    """Prepare and train, and tell the trackers how that ended."""
    try:
        _launch(works)
    except BaseException as error:
        for work in works:
            work.interrupted(isinstance(error, InterruptedRunError | KeyboardInterrupt))
        raise


def _launch(works: Sequence["_Work"]) -> None:
    """Launch the workers, watch them, and commit a package for each model that they finish."""
    from orchestrator.cluster.launcher import launch
    from orchestrator.cluster.observe.watch import Watcher
    from orchestrator.cluster.session import session_at_hand

    first = works[0].config
    with session_at_hand(first.cluster):  # a Ray of its own starts when the inputs are there
        payload = PretrainPayload(jobs=tuple(work.prepare() for work in works))
        names = first.run.name  # becomes the name of a folder, which has a limit
        names += f" and {len(works) - 1} more" if len(works) > 1 else ""
        with Watcher(STAGE, {work.config.run.name: work.watched() for work in works}) as watcher:
            result = launch(
                WORKER,
                payload,
                LaunchResult,
                cluster=first.cluster,
                engine=first.engine,
                run_dir=works[0].run.path,
                name=f"{STAGE} {names}",
                on_event=watcher.observe,
            )
    for work, summary in zip(works, result.summaries, strict=False):
        if isinstance(summary, Summary):
            work.commit(summary)
    if result.stopped:
        raise InterruptedRunError(
            f"stopped after step {result.summaries[-1].step}, which is saved. Start the same "
            "command again to continue."
        )


@dataclass
class _Work:
    """One model on its way from corpus to package.

    Attributes:
        config: The job.
        run: Its open run folder.
        inputs: What it reads; set by `prepare`.
        start: Where it starts; set by `prepare`.
        mlflow: Its MLflow run, if it has one; set by `prepare`.
        reasons: Why its package is refused; set by `commit`.
    """

    config: PretrainConfig
    run: RunFolder
    inputs: "PretrainInputs | None" = None
    start: Start = field(default_factory=Start)
    mlflow: "MlflowRun | None" = None
    reasons: list[str] = field(default_factory=list)

    def recover(self) -> None:
        """Record the result of a run that was killed after its commit, before it was finished."""
        if self.run.finished() is None:
            package = committed(self.run, self.config.package.name)
            if package is not None:
                self.mlflow = self._open_mlflow()
                self._finish(package)

    def prepare(self) -> PretrainJob:
        """Make the data ready, check that the result can be stored, and return what workers get."""
        from orchestrator.pretraining.inputs import prepare_inputs
        from orchestrator.pretraining.notes import notes_of
        from orchestrator.pretraining.resuming import notes_on
        from orchestrator.pretraining.starting import require_same_data

        place = f"{self.config.run.dir}/{CORPORA}"
        for name in (self.run.done(CORPORA) or {}).get("folders", ()):  # on another machine
            local_copy(f"{place}/{name}")
        self.inputs = inputs = prepare_inputs(self.config, local_folder(place))
        require_same_data(self.run, inputs.corpus)
        if inputs.guard is not None:
            require_same_data(self.run, inputs.guard, "guard")
        self.start = self.run.once("start", Start, self._take_start)
        draft_of(self.run, self.config.package.name, **self._description({})).discard()
        self.mlflow = self._open_mlflow()
        corpus = inputs.corpus
        logger.info(
            "%s: corpus of %s documents, %s tokens",
            self.config.run.name,
            f"{corpus.documents:,}",
            f"{corpus.tokens:,}",
        )
        for note in notes_on(self.config, self.run.changed) if self.run.changed else ():
            logger.info("%s: %s", self.config.run.name, note)
        for note in notes_of(inputs) if inputs.noteworthy else ():
            logger.warning("%s: %s", self.config.data.title, note)
        return self._placed(inputs.job(self.run.path, self._first_weights()))

    def _placed(self, job: PretrainJob) -> PretrainJob:
        """Name places on an object store so that workers of any host find them."""
        zoo = self.config.run.zoo.rstrip("/")
        if job.start is not None and local_path(zoo) is None:
            job = job.model_copy(update={"start": f"{zoo}/{self.start.package}"})
        if self.run.remote is None:
            return job
        folders = [Path(each) for each in (job.corpus, job.guard) if each is not None]
        shared = [self.run.share(folder) for folder in folders]
        names = [place.rpartition("/")[2] for place in shared if "://" in place]
        self.run.pin(CORPORA, {"folders": names})
        places = dict(zip(("corpus", "guard"), shared, strict=False))
        more = {"run_dir": self.run.address, "lease": self.run.lease, **places}
        return job.model_copy(update=more)

    def _open_mlflow(self) -> "MlflowRun | None":
        from orchestrator.cluster.observe.tracking import open_mlflow

        return open_mlflow(self.config, self.run.id, Path(self.config.run.dir))

    def _take_start(self) -> Start:
        """Resolve ``train.start_from``, and link the checkpoint that it names."""
        from orchestrator.cluster.checkpoints.branching import link_checkpoint
        from orchestrator.pretraining.starting import check_checkpoint, check_package

        source = _source(self.config)
        if source is None:
            return Start()
        if isinstance(source, Package):
            check_package(self.config, source)
            return Start(package=source.ref, manifest_sha256=source.manifest_sha256)
        check_checkpoint(self.config, source, self.inputs)
        link_checkpoint(source, self._checkpoints())
        return Start(checkpoint=str(source.path))

    def _first_weights(self) -> Path | None:
        """Return the folder of the package that the run starts from."""
        return None if self.parent is None else self.parent.path

    @property
    def parent(self) -> Package | None:
        """The package that the run starts from.

        Raises:
            IntegrityError: It is not the one that the run began with.
        """
        if self.start.package is None:
            return None
        found = Zoo(self.config.run.zoo).get(self.start.package)
        if self.start.manifest_sha256 not in (None, found.manifest_sha256):
            raise IntegrityError(f"{found.ref} is not the package that the run began with.")
        return found

    def watched(self) -> "Watched":
        """Return what the watcher needs."""
        from orchestrator.cluster.observe.tracking import Watched

        steps = self.config.train.max_steps
        return Watched(self.run.path, steps, self.config.tracking, self.mlflow)

    def interrupted(self, resumable: bool) -> None:
        """Report to MLflow that training ended early."""
        if self.mlflow is not None and self.run.finished() is None:
            self.mlflow.finish("KILLED" if resumable else "FAILED")

    def commit(self, summary: Summary) -> None:
        """Commit the package and record the result."""
        from orchestrator.pretraining.guard import refusals
        from orchestrator.pretraining.outcome import figures

        assert self.inputs is not None
        self.run.fetch(EXPORT)
        metrics = figures(self.inputs, summary).model_dump(mode="json", exclude_none=True)
        name, described = self.config.package.name, self._description(metrics)
        self.reasons = refusals(self.config, summary)
        self._finish(commit_once(self.run, name, write=self._write, **described))

    def _finish(self, package: Package) -> None:
        """Record the result, then remove what only an unfinished run needs."""
        from orchestrator.training.early_stopping import FOLDER

        if self.mlflow is not None:
            self.mlflow.finish("FINISHED", package.ref)
        metrics = package.manifest.metrics
        result = JobResult(package=package.ref, metrics=metrics, run_dir=self.run.address)
        if package.rejected:
            refused = {"status": "refused", "reasons": tuple(package.manifest.reasons)}
            result = result.model_copy(update=refused)
        self.run.finish(result)
        for done_with in (EXPORT, FOLDER, EVALUATIONS):
            self.run.drop(done_with)
        train = self.config.train
        self._checkpoints().clear(train.keep_every_steps, train.keep_last)

    def _checkpoints(self) -> "CheckpointFolder":
        """Return the checkpoints of the run."""
        from orchestrator.cluster.checkpoints.remote import checkpoints_of

        remote = self.run.remote
        return checkpoints_of(self.run.path, None if remote is None else remote.mirror)

    def result(self) -> JobResult:
        """Return the recorded result."""
        found = self.run.finished()
        if found is None:
            raise InterruptedRunError(f"run {self.config.run.name!r} is not finished yet")
        return found

    def _write(self, draft: "Draft") -> None:
        """Write the files of the package."""
        from orchestrator.pretraining.outcome import write_package

        assert self.inputs is not None
        write_package(draft, self.run.path / EXPORT, self.inputs, self._first_weights())
        draft.reasons = self.reasons

    def _description(self, metrics: Mapping[str, JsonValue]) -> Description:
        """Return what the manifest says of the package; limit and license are the parent's."""
        assert self.inputs is not None
        task, licence, parent = self.inputs.task, self.config.package.licence, self.parent
        if parent is not None:
            licence = licence or parent.manifest.licence
            if parent.manifest.task is not None and task["max_length"] is not None:
                task["max_length"] = parent.manifest.task.max_length or task["max_length"]
        return {
            "kind": "pretrained",
            "parents": [] if parent is None else [parent.ref],
            "task": task,
            "metrics": metrics,
            "licence": licence,
        }
