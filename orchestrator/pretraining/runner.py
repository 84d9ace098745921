"""The pre-training job: corpus, launch, package."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import JobResult, dump_yaml
from orchestrator.errors import InputError, InterruptedRunError
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.labels import name_of_labelled
from orchestrator.pretraining.outcome import outcome
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.zoo import Package, Zoo, commit_once, committed
from orchestrator.zoo.stage import draft_of

if TYPE_CHECKING:
    from orchestrator.cluster.checkpoints.store import Checkpoint
    from orchestrator.cluster.observe.mlflow_run import MlflowRun
    from orchestrator.cluster.observe.tracking import Watched
    from orchestrator.pretraining.inputs import AnyCorpus
    from orchestrator.zoo.draft import Draft

logger = logging.getLogger(__name__)

STAGE = "pretrain"
WORKER = "orchestrator.pretraining.worker:pretrain_all"
CORPORA = "corpora"
EXPORT, HISTORY = "export", "history.parquet"
EXPORTED = ("config.json", "model*.safetensors*", HISTORY)
"""Patterns of the files that become the package; a large model has several of weights."""


def check(config: PretrainConfig) -> str:
    """Return what the job would do: sizes, memory, steps. Starts nothing.

    Raises:
        ConfigError: The model does not fit together.
        InputError: The corpus or the tokenizer is not there.
    """
    from orchestrator.pretraining.plan import describe, make_plan

    config.tracking.require_installed()
    return "\n".join([describe(make_plan(config)), *_start_line(config)])


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
        works = [
            _Work(config, stack.enter_context(RunFolder.open(config, STAGE))) for config in configs
        ]
        for work in works:
            work.recover()
        pending = [work for work in works if work.run.finished() is None]
        if pending:
            _train(pending)
        return [work.result() for work in works]


def _require_one_group(configs: Sequence[PretrainConfig]) -> None:
    if any(config.cluster != configs[0].cluster for config in configs):
        raise InputError("jobs that share workers must have the same cluster section")


def _start_line(config: PretrainConfig) -> list[str]:
    """Check where a job starts, and return what ``--check`` says of it."""
    from orchestrator.pretraining.starting import check_checkpoint, check_package

    source = _source(config)
    if source is None:
        return []
    if isinstance(source, Package):
        check_package(config, source)
        return [f"{'start':12} weights of {source.ref}, step 0"]
    check_checkpoint(config, source)
    return [f"{'start':12} everything of {source.path}, step {source.step}"]


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

    place = Path(start.path or Path(config.run.dir) / str(start.run))
    return find_checkpoint(place, start.step)


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
    from orchestrator.cluster.session import session_for

    cluster = works[0].config.cluster
    with session_for(cluster):
        for work in works:
            work.prepare()
        names = works[0].config.run.name  # becomes the name of a folder, which has a limit
        names += f" and {len(works) - 1} more" if len(works) > 1 else ""
        with Watcher(STAGE, {work.config.run.name: work.watched() for work in works}) as watcher:
            outcome = launch(
                WORKER,
                {"jobs": [work.job() for work in works]},
                cluster=cluster,
                engine=works[0].config.engine,
                run_dir=works[0].run.path,
                name=f"{STAGE} {names}",
                on_event=watcher.observe,
            )
    for work, summary in zip(works, outcome["summaries"], strict=False):
        if not summary["stopped"]:
            work.commit(summary)
    if outcome["stopped"]:
        last = outcome["summaries"][-1]
        raise InterruptedRunError(
            f"stopped after step {last['step']}, which is saved. Start the same command again to "
            "continue."
        )


@dataclass
class _Work:
    """One model: its config, its run folder, its way from corpus to package."""

    config: PretrainConfig
    run: RunFolder
    corpus: "AnyCorpus | None" = None
    start: dict[str, Any] = field(default_factory=dict)
    mlflow: "MlflowRun | None" = None

    def prepare(self) -> None:
        """Make the corpus, and check before training that its result can be stored."""
        from orchestrator.cluster.observe.tracking import open_mlflow
        from orchestrator.pretraining.inputs import prepare_inputs, vocabulary
        from orchestrator.pretraining.plan import with_vocabulary
        from orchestrator.pretraining.starting import require_same_data

        cache = Path(self.config.run.dir).resolve() / CORPORA
        self.corpus = prepare_inputs(self.config, cache)
        with_vocabulary(self.config, vocabulary(self.corpus))
        require_same_data(self.run, self.corpus)
        self.start = self._take_start()
        draft_of(self.run, **self._description({})).discard()
        self.mlflow = open_mlflow(self.config, self.run.id, Path(self.config.run.dir))
        logger.info(
            "%s: corpus of %s documents, %s tokens",
            self.config.run.name,
            f"{self.corpus.documents:,}",
            f"{self.corpus.tokens:,}",
        )

    def job(self) -> dict[str, Any]:
        """Return what the workers need."""
        assert self.corpus is not None
        return {
            "config": self.config.model_dump(mode="json"),
            "corpus": str(self.corpus.path.resolve()),
            "run_dir": str(self.run.path.resolve()),
            "start": self._first_weights(),
        }

    def _take_start(self) -> dict[str, Any]:
        """Find where the run starts and take a checkpoint over, once: names move on."""
        from orchestrator.cluster.checkpoints.branching import CHECKPOINTS, plant
        from orchestrator.pretraining.starting import check_checkpoint, check_package

        found = self.run.done("start")
        if found is not None:
            return found
        source = _source(self.config)
        if isinstance(source, Package):
            check_package(self.config, source)
            found = {"package": source.ref}
        elif source is not None:
            check_checkpoint(self.config, source, self.corpus)
            plant(source, self.run.path / CHECKPOINTS)
            found = {"checkpoint": str(source.path)}
        self.run.mark("start", found or {})
        return found or {}

    def _first_weights(self) -> str | None:
        """Return the folder of the package that the run starts from."""
        reference = self.start.get("package")
        return str(Zoo(self.config.run.zoo).get(reference).path.resolve()) if reference else None

    def watched(self) -> "Watched":
        """Return what the watcher needs."""
        from orchestrator.cluster.observe.tracking import Watched

        steps = self.config.train.max_steps
        return Watched(self.run.path, steps, self.config.tracking, self.mlflow)

    def interrupted(self, resumable: bool) -> None:
        """Tell MLflow that training ended before its time."""
        if self.mlflow is not None and self.run.finished() is None:
            self.mlflow.finish("KILLED" if resumable else "FAILED")

    def recover(self) -> None:
        """Record the result of a run that was killed after its commit, before it was finished."""
        from orchestrator.cluster.observe.tracking import open_mlflow

        if self.run.finished() is None:
            package = committed(self.run, self.config.package.name)
            if package is not None:
                self.mlflow = open_mlflow(self.config, self.run.id, Path(self.config.run.dir))
                self._finish(package)

    def commit(self, summary: dict[str, Any]) -> None:
        """Commit the package and record the result."""
        assert self.corpus is not None
        figures = outcome(self.config.model, self.corpus, summary)
        self._finish(commit_once(self.run, write=self._write, **self._description(figures)))

    def _finish(self, package: Package) -> None:
        """Record the result, then remove what only an unfinished run needs."""
        from orchestrator.cluster.checkpoints.branching import CHECKPOINTS
        from orchestrator.cluster.checkpoints.store import CheckpointFolder
        from orchestrator.pretraining.best import FOLDER

        if self.mlflow is not None:
            self.mlflow.finish("FINISHED", package.ref)
        metrics = package.manifest.metrics
        self.run.finish(JobResult(package=package.ref, metrics=metrics, run_dir=str(self.run.path)))
        for done_with in (EXPORT, FOLDER):
            shutil.rmtree(self.run.path / done_with, ignore_errors=True)
        CheckpointFolder(self.run.path / CHECKPOINTS).clear(self.config.train.keep_every_steps)

    def result(self) -> JobResult:
        """Return the recorded result."""
        found = self.run.finished()
        if found is None:
            raise InterruptedRunError(f"run {self.config.run.name!r} is not finished yet")
        return found

    def _write(self, draft: "Draft") -> None:
        """Write the files of the package."""
        assert self.corpus is not None
        export = self.run.path / EXPORT
        for path in (path for pattern in EXPORTED for path in export.glob(pattern)):
            shutil.copyfile(path, draft.path / path.name)
        self.corpus.processor.save(draft.path)
        (draft.path / "job.yaml").write_text(dump_yaml(self.config), encoding="utf-8")
        atomic_write_json(
            draft.path / "evaluation" / "pretraining.json",
            {"data": self.config.data.title, "split": "validation"} | draft.metrics,
        )

    def _description(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return what the manifest says of the package."""
        from orchestrator.pretraining.inputs import modality, vocabulary

        assert self.corpus is not None
        target = self.config.model.target[0]
        names = getattr(self.corpus, "label_names", None)  # numbers have none
        labels = {"labels": {name_of_labelled(self.config.model): list(names)}} if names else {}
        return {
            "name": self.config.package.name,
            "kind": "pretrained",
            "parents": [self.start["package"]] if "package" in self.start else [],
            "task": {
                "kind": target.type_name(),
                "modality": modality(self.corpus),
                "max_length": self.config.data.block_size if vocabulary(self.corpus) else None,
                **labels,
            },
            "metrics": metrics,
            "licence": self.config.package.licence,
        }
