"""Ray Tune for trials that advance epoch by epoch: one class trainable, one call to run them.

A trial is a plain class, named ``module:Class`` and free of Ray (:class:`EpochTrial`). Its payload
and its results cross the process border as JSON and are validated on arrival, as in ``launch``.
Actors are reused from trial to trial, so that the price of a process with torch in it is paid once
per slot and not once per trial or per resume.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from orchestrator.cluster.environment import temporary_defaults
from orchestrator.cluster.peers import RayPeers, peers_of_actor
from orchestrator.cluster.processes import class_path, load_named
from orchestrator.config import ClusterSection, StrictModel, TrialClusterSection
from orchestrator.training.events import EPOCH_RESULT, NewTrial

if TYPE_CHECKING:  # it imports torch, which this process may not need
    from orchestrator.training.worker_context import Peers

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our journal holds the results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must reach the job, which is resumable
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the reason is in the outcome, in one line
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}
MAX_PENDING = 16
"""Trials of a queue that may wait for a process at a time; Tune's default is one."""

Result = TypeVar("Result", bound=StrictModel)


class EpochTrial(Protocol):
    """Interface of a trial class; its constructor takes the payload."""

    @property
    def done(self) -> bool:
        """Whether the last epoch is done; this ends the trial."""
        ...

    def step(self) -> StrictModel:
        """Advance one epoch and return its result."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs to go on from here."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        ...


@runtime_checkable
class SharedTrial(Protocol):
    """A trial that can do its work with several workers; others use the first one alone."""

    def share(self, peers: "Peers") -> None:
        """Take the other workers; called before the first step."""
        ...


class TrialQueue(Protocol):
    """A Tune ``TrialScheduler`` that makes trials as it goes, pauses them and resumes them later.

    It finds what a trial's ``step`` returned, as JSON, under the key `EPOCH_RESULT`.
    """

    def next_trial(self) -> NewTrial | None:
        """Return a trial that is to be started; None: none at this moment."""
        ...

    def is_open(self) -> bool:
        """Return whether a trial may still be started or resumed."""
        ...


class EpochTrainable(tune.Trainable):  # type: ignore[misc]
    """Tune's view of an `EpochTrial`.

    Its config: ``target`` and ``payload_class`` (``module:Class``), ``payload`` (JSON).
    """

    _trial: EpochTrial
    _peers: RayPeers | None = None
    """Other workers of this actor's trials; they stay with it."""

    def setup(self, config: dict[str, Any]) -> None:
        """Make the trial."""
        payload = load_named(config["payload_class"]).model_validate_json(config["payload"])
        self._trial = load_named(config["target"])(payload)
        if isinstance(self._trial, SharedTrial):
            self._peers = self._peers or peers_of_actor()
            if self._peers is not None:
                self._trial.share(self._peers)

    def step(self) -> dict[str, Any]:
        """Advance one epoch."""
        result = self._trial.step()
        return {EPOCH_RESULT: result.model_dump_json(), "done": self._trial.done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Called when the trial is paused."""
        self._trial.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Called when the trial resumes, here or in another actor."""
        self._trial.load(Path(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over another trial in this process."""
        self.setup(new_config)
        return True


def run_trials(
    target: str,
    payloads: Mapping[str, StrictModel],
    result: type[Result],
    *,
    storage: Path,
    cluster: ClusterSection,
    on_result: Callable[[str, Result], None] | None = None,
) -> dict[str, str | None]:
    """Run trials on the connected cluster to their ends, as many at once as fit.

    Args:
        target: ``module:Class`` of the trial, importable on every worker.
        payloads: Trial id -> payload of the class.
        result: Class of what a trial's ``step`` returns.
        storage: Folder for Tune's own files, seen by every node.
        cluster: CPUs and GPUs of one trial, retries after a lost worker.
        on_result: Called with (trial id, result) in this process.

    Returns:
        Trial id -> its error, None for a trial that ended well; for every payload.
    """
    space = {
        "target": target,
        "trial": tune.grid_search(list(payloads)),
        "payload_class": tune.sample_from(lambda spec: class_path(payloads[spec.config.trial])),
        "payload": tune.sample_from(lambda spec: payloads[spec.config.trial].model_dump_json()),
    }
    callbacks = [_Results(result, on_result)] if on_result else []
    grid = _fit(space, tune.TuneConfig(), storage, cluster, callbacks)
    # A trial that was dropped before it started has no config in its result, but a folder.
    names = {_folder_name(trial): trial for trial in payloads}
    return {names[Path(ended.path).name]: _last_line(ended.error) for ended in grid}


def run_queue(queue: TrialQueue, *, storage: Path, cluster: ClusterSection) -> None:
    """Run the trials that a scheduler makes on the connected cluster, as many at once as fit.

    Args:
        queue: Makes the trials, hears their results and errors and decides between their epochs;
            reads ``config["trial"]``.
        storage: Folder for Tune's own files, seen by every node.
        cluster: CPUs and GPUs of one trial, retries after a lost worker.
    """
    config = tune.TuneConfig(scheduler=queue, search_alg=_Queue(queue), num_samples=-1)
    with temporary_defaults({"TUNE_MAX_PENDING_TRIALS_PG": str(MAX_PENDING)}):
        _fit({}, config, storage, cluster, [])


def _fit(
    space: Mapping[str, object],
    config: tune.TuneConfig,
    storage: Path,
    cluster: ClusterSection,
    callbacks: list[tune.Callback],
) -> tune.ResultGrid:
    trainable = tune.with_resources(EpochTrainable, _places(cluster))
    config.reuse_actors = True
    config.trial_name_creator = config.trial_dirname_creator = _trial_name
    # A failed trial is the caller's to report: here it may be expected, and is in the outcome.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    with temporary_defaults(TUNE_ENVIRONMENT):
        return tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(
                name=f"tune-{time.time_ns():x}",  # ours is the state to resume from, not Tune's
                storage_path=str(storage.absolute()),
                failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                callbacks=callbacks,
                verbose=0,
            ),
        ).fit()


def _places(cluster: ClusterSection) -> tune.PlacementGroupFactory:
    """Return what a trial reserves: the same for each of its workers."""
    takes = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    workers = cluster.workers_per_trial if isinstance(cluster, TrialClusterSection) else 1
    chosen = {"bundle_label_selector": [cluster.labels] * workers} if cluster.labels else {}
    return tune.PlacementGroupFactory([takes] * workers, **chosen)


class _Queue(Searcher):  # type: ignore[misc]
    """The trials of a queue, not finished while it is open: else Tune ends the idle actors.

    Without this every rung would start its processes again. Nothing is saved: a run continues from
    our journal, never from Tune's snapshot.
    """

    def __init__(self, queue: TrialQueue) -> None:
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """Return the config of the next trial; None: none at this moment."""
        if not self._queue.is_open():
            return str(Searcher.FINISHED)
        new = self._queue.next_trial()
        if new is None:
            return None
        return {
            "trial": new.name,
            "target": new.target,
            "payload_class": class_path(new.payload),
            "payload": new.payload.model_dump_json(),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the scheduler has seen the result."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is saved."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Searcher, ()


class _Results(tune.Callback):  # type: ignore[misc]
    """Hands every result to the caller.

    Tune serializes its settings for a restore of its own that is never asked for; what cannot be
    serialized (a progress bar) is left out of it.
    """

    def __init__(self, kind: type[Result], on_result: Callable[[str, Result], None]) -> None:
        def hand_on(trial: str, text: str) -> None:
            on_result(trial, kind.model_validate_json(text))

        self._hand_on = hand_on

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.Callback, ()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Called in the driver's process, after the scheduler saw the result."""
        self._hand_on(trial.config["trial"], result[EPOCH_RESULT])


def _trial_name(trial: Trial) -> str:
    return _folder_name(str(trial.config["trial"]))


def _folder_name(trial: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", trial)


def _last_line(error: BaseException | None) -> str | None:
    return str(error).strip().splitlines()[-1].strip() if error and str(error).strip() else None
