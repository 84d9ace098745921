"""Launch of a worker function on every worker of a cluster, through Ray Train.

The driver waits in the main thread, where signals arrive: the first Ctrl-C, SIGTERM or
SIGHUP (the terminal was closed) asks the workers to save a checkpoint and return; the second one
ends the run at once.
"""

import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from orchestrator.cluster.observe.mailbox import Mailbox, rebuild_error
from orchestrator.cluster.preload import Preload
from orchestrator.cluster.processes import (
    ACCELERATED_BACKEND,
    COLLECTIVE_TIMEOUT_S,
    class_path,
)
from orchestrator.cluster.session import RaySession, ask_for, session_for
from orchestrator.cluster.spares import Spares, preload_for
from orchestrator.cluster.worker import Assignment, Ended, train_loop
from orchestrator.config import ClusterSection, ElasticClusterSection, StrictModel
from orchestrator.errors import InterruptedRunError, StageError
from orchestrator.training.config import EngineConfig
from orchestrator.training.events import Event, GroupStarted, Status

logger = logging.getLogger(__name__)

NEVER_S = 60.0  # not used by a group of fixed size
POLL_S = 0.2  # how often the driver empties the mailbox
RAY_STORAGE = ".ray-"
"""Folder of Ray Train's own records: a new one per launch, because Ray cannot start from a
damaged one. Everything that a run needs to resume is in its checkpoints."""
NODE_LABEL = "ray.io/node-id"
"""Label that Ray gives every node."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OnEvent = Callable[[Event], None]
Result = TypeVar("Result", bound=StrictModel)


def launch(
    worker: str,
    payload: StrictModel,
    result: type[Result],
    *,
    cluster: ClusterSection,
    engine: EngineConfig,
    run_dir: Path,
    name: str,
    on_event: OnEvent | None = None,
) -> Result:
    """Run ``worker`` on ``cluster.workers`` workers and return rank 0's result.

    Payload and result cross the process border as JSON and are validated on arrival, so a worker
    of another version fails with a message and not with a missing key.

    Args:
        worker: ``module:function``; called as ``function(context, payload)`` on every rank with a
            :class:`~orchestrator.training.worker_context.WorkerContext` and the payload; returns
            a ``result``. A name and not the function: the driver need not import torch.
        payload: Input of the function.
        result: Class of what the function returns.
        cluster: Where to run and with how many workers.
        engine: The engine the function will build; checked here against the number of workers.
        run_dir: The run's folder, on storage that all workers share.
        name: Name of the launch in messages and in Ray's dashboard.
        on_event: Called in the caller's thread with each event that rank 0 emits.

    Returns:
        What rank 0 returned.

    Raises:
        InputError: Not enough resources (at once), or raised by the worker function.
        OrchestratorError: Whatever error of this system a worker raised, with its exit code.
        StageError: Workers failed more than ``cluster.max_failures`` times without a checkpoint.
        InterruptedRunError: Stopped before the workers had anything to save.
    """
    for problem in engine.problems_with(cluster.workers):
        raise StageError(f"engine.{problem}")
    with session_for(cluster) as session:
        task = _Launch(worker, payload, cluster, run_dir.resolve(), name, on_event, session)
        return result.model_validate_json(task.run())


@dataclass(slots=True)
class _Launch:
    worker: str
    payload: StrictModel
    cluster: ClusterSection
    run_dir: Path
    name: str
    on_event: OnEvent | None
    session: RaySession
    _ended: Ended | None = None
    _error: Exception | None = None
    _signals: list[int] = field(default_factory=list)
    _working: bool = False
    _preload: Preload | None = field(init=False)

    def __post_init__(self) -> None:
        self._preload = preload_for(self.cluster, uuid.uuid4().hex[:8], self.session)

    def run(self) -> str:
        """Return the result of rank 0 as JSON."""
        import ray

        mailbox = _start_mailbox()
        thread = threading.Thread(target=self._fit, args=(mailbox,), daemon=True, name="fit")
        started = time.perf_counter()
        logger.info("%s: starting %d workers", self.name, self.cluster.workers)
        try:
            with _caught_signals(self._signals), self._spares(mailbox):
                thread.start()
                self._wait(thread, mailbox)
            failure = ray.get(mailbox.failure.remote())
        finally:
            ray.kill(mailbox)
        logger.info("%s: workers ran for %.1f s", self.name, time.perf_counter() - started)
        if failure is not None:
            raise rebuild_error(failure, self.name)
        return self._result()

    def _wait(self, thread: threading.Thread, mailbox: Any) -> None:
        """Hand events on until the fit ends; pass a request to stop on to the workers."""
        import ray

        asked = 0
        while thread.is_alive():
            thread.join(POLL_S)
            self._hand_on(ray.get(mailbox.take.remote()))
            if len(self._signals) > asked:
                asked = len(self._signals)
                if asked > 1 or not self._working:
                    raise InterruptedRunError(
                        f"{self.name}: stopped. Start the same command again to continue."
                    )
                logger.warning("stopping after this step; once more to stop at once")
                ray.get(mailbox.request_stop.remote())
        self._hand_on(ray.get(mailbox.take.remote()))

    def _spares(self, mailbox: Any) -> AbstractContextManager[object]:
        """Return what keeps spare processes ready, if there shall be any."""
        if self._preload is None:
            return nullcontext()
        ask = ask_for(self.cluster, _most(self.cluster), "cluster.spare_workers")
        return Spares(self.name, self._preload, ask, mailbox)

    def _hand_on(self, events: list[Event]) -> None:
        for event in events:
            self._working = True
            if isinstance(event, GroupStarted):
                logger.info("%s: %d workers started", self.name, event.world)
            elif isinstance(event, Status):
                logger.info("%s: %s", self.name, event.message)
            if self.on_event is not None:
                self.on_event(event)

    def _result(self) -> str:
        if self._error is not None:
            logger.debug("%s: Ray Train's own report:\n%s", self.name, self._error)
            explained = _explain(self.name, self._error, self.cluster.max_failures)
            raise StageError(explained) from self._error
        if self._ended is None or self._ended.result is None:
            raise StageError(f"{self.name}: the workers gave up without a reason")
        return self._ended.result

    def _fit(self, mailbox: Any) -> None:
        """Run Ray Train to its end; the outcome is read by the driver's thread."""
        for left in self.run_dir.glob(f"{RAY_STORAGE}*"):  # by a driver that was killed
            shutil.rmtree(left, ignore_errors=True)
        storage = self.run_dir / f"{RAY_STORAGE}{uuid.uuid4().hex[:8]}"
        try:
            self._ended = self._trainer(mailbox, storage).fit().return_value
        except Exception as error:  # noqa: BLE001 - carried to the driver's thread, raised there
            self._error = error
        finally:
            shutil.rmtree(storage, ignore_errors=True)

    def _trainer(self, mailbox: Any, storage: Path) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from orchestrator.cluster.trainer import LeanTorchTrainer

        workers, resize_s = _size(self.cluster)
        accelerated = self.cluster.gpus_per_worker > 0
        resources = {"CPU": self.cluster.cpus_per_worker}
        if accelerated:
            resources["GPU"] = self.cluster.gpus_per_worker
        return LeanTorchTrainer(
            train_loop,
            mailbox=mailbox,
            private=self.session.private,
            train_loop_config={
                "assignment": Assignment(
                    worker=self.worker,
                    payload_class=class_path(self.payload),
                    payload=self.payload.model_dump_json(),
                    run_dir=self.run_dir,
                    mailbox=mailbox,
                    threads=max(1, int(self.cluster.cpus_per_worker)),
                    accelerated=accelerated,
                )
            },
            torch_config=TorchConfig(
                backend=ACCELERATED_BACKEND if accelerated else "gloo",
                timeout_s=COLLECTIVE_TIMEOUT_S,
            ),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=accelerated,
                resources_per_worker=resources,
                label_selector=self.cluster.labels or None,
                elastic_resize_monitor_interval_s=resize_s,
            ),
            run_config=RunConfig(
                name=f"{self.name}-{uuid.uuid4().hex[:8]}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=self.cluster.max_failures),
                worker_runtime_env={"env_vars": self._preload.environment if self._preload else {}},
            ),
        )


def _size(cluster: ClusterSection) -> tuple[int | tuple[int, int], float]:
    """Return how many workers a group has, or its bounds, and how often Ray resizes it."""
    if not isinstance(cluster, ElasticClusterSection):
        return cluster.workers, NEVER_S
    counts = cluster.worker_counts
    workers = (counts[0], counts[-1]) if len(counts) > 1 else cluster.workers
    return workers, cluster.resize_interval_s


def _most(cluster: ClusterSection) -> int:
    """Return the largest number of workers of a group."""
    return (
        cluster.worker_counts[-1] if isinstance(cluster, ElasticClusterSection) else cluster.workers
    )


def _start_mailbox() -> Any:
    """Start the mailbox actor on the driver's node, without a CPU of its own."""
    import ray

    # A label selector waits for the driver's node. Soft affinity falls back to another node while
    # the scheduler does not know that one yet, and the mailbox would be lost with it.
    here = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0)(Mailbox).options(label_selector=here).remote()


@contextmanager
def _caught_signals(received: list[int]) -> Iterator[None]:
    """Collect the signals that ask to stop, in the main thread."""

    def handler(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # under ``nohup``: stay alive without a terminal
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _explain(name: str, error: BaseException, max_failures: int) -> str:
    """Return the reason of a failure in one line, without Ray's frames."""
    failures = getattr(error, "worker_failures", None) or {}
    reasons = {str(each).strip().splitlines()[0] for each in failures.values() if str(each).strip()}
    own = next(iter(str(error).strip().splitlines()), type(error).__name__)
    cause = "; ".join(sorted(reasons)) or own
    return (
        f"{name}: the workers failed more than {max_failures} times (cluster.max_failures) without "
        f"a new checkpoint; last: {cause}. "
        "Committed checkpoints are intact: start the same command again to continue."
    )
