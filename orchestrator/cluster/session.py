"""A Ray cluster for the length of a ``with`` block: connect to one, or start a private one.

Sessions nest: the inner one reuses the outer one's Ray, and only the session that started Ray
stops it, also when the block ends with an exception, Ctrl-C or SIGTERM.
"""

import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.environment import (
    TRAIN,
    ensure_token,
    extensions_dir,
    local_cluster_environment,
    temporary_defaults,
)
from orchestrator.cluster.room import Ask, require_room
from orchestrator.config import ClusterSection
from orchestrator.errors import InputError, StageError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200 * 2**20  # models travel through files; the store carries messages
TEMP_PREFIX = "orch-ray-"
CONNECT_TIMEOUT_S = 5.0
START_ATTEMPTS = 3  # a loaded host can miss the start window of Ray's control service
ABANDONED_AFTER_S = 60.0  # a younger folder may be one that another process is just making
_PRIVATE = threading.Event()  # set while a cluster that this process started is running


@dataclass(frozen=True, slots=True)
class RaySession:
    """A connected Ray.

    Attributes:
        address: Address of the control service (GCS), ``host:port``.
        cpus: CPUs of the whole cluster.
        gpus: GPUs of the whole cluster.
        started: Whether this session started the cluster (and so stops it).
        private: Whether this process started the cluster, in this session or an outer one.
    """

    address: str
    cpus: float
    gpus: float
    started: bool
    private: bool


@contextmanager
def session_for(
    cluster: ClusterSection, workers: int | None = None, name: str = "cluster.workers"
) -> Iterator[RaySession]:
    """Connect to the configured cluster, or start a private one here, with room for the workers.

    A cluster that others share is waited for, up to ``cluster.wait_s``; see `room`.

    Args:
        cluster: Where (``address``, else ``RAY_ADDRESS``, else this machine), and what each worker
            takes.
        workers: How many work at once; None: ``cluster.workers``.
        name: What messages call the workers.

    Yields:
        The session; nested calls reuse the outer one's Ray.

    Raises:
        InputError: The resources are not there or the address does not answer; raised before any
            work starts, and for a private cluster even before Ray does.
        StageError: A private Ray could not be started.
    """
    ask = ask_for(cluster, cluster.workers if workers is None else workers, name)
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if not _initialized() and address is None:
        _require_here(ask)
    with ExitStack() as stack:
        started = False
        if not _initialized():
            started = address is None
            accelerated = "GPU" in ask.resources
            stack.enter_context(_private_ray(accelerated) if started else _connection(str(address)))
        session = _describe(started)
        require_room(ask, private=session.private)
        yield session


@contextmanager
def session_at_hand(cluster: ClusterSection) -> Iterator[None]:
    """Connect like `session_for`, but start no Ray: this machine is only asked for its room.

    For checks that take long, so that neither they nor the start of Ray are in vain.

    Raises:
        InputError: The resources are not there or the address does not answer.
    """
    if _initialized() or cluster.address or os.environ.get("RAY_ADDRESS"):
        with session_for(cluster):
            yield
    else:
        _require_here(ask_for(cluster, cluster.workers, "cluster.workers"))
        yield


def ask_for(cluster: ClusterSection, workers: int, name: str) -> Ask:
    """Return the resources of a number of workers.

    Args:
        cluster: What each of them takes.
        workers: How many.
        name: What messages call them.
    """
    takes = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    resources = {kind: each for kind, each in takes.items() if each}
    worker = " + ".join(f"{each:g} {kind}" for kind, each in resources.items()) or "0 CPU"
    purpose = f"{name}: {workers} × {worker}"
    return Ask(purpose, workers, resources, cluster.labels, cluster.wait_s)


def _initialized() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _describe(started: bool) -> RaySession:
    import ray

    total = ray.cluster_resources()
    return RaySession(
        address=ray.get_runtime_context().gcs_address,
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        started=started,
        private=_PRIVATE.is_set(),
    )


# --- starting and connecting ---------------------------------------------------------------------


@contextmanager
def _private_ray(accelerated: bool) -> Iterator[None]:
    with temporary_defaults(local_cluster_environment(accelerated)), _temporary_folder() as folder:
        ensure_token()
        extensions_dir().mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        logger.info("starting a private Ray")
        _start(
            num_cpus=_machine_cpus(),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
        )
        logger.info(
            "started a private Ray with %d CPUs in %.1f s",
            _machine_cpus(),
            time.perf_counter() - started,
        )
        _PRIVATE.set()
        try:
            yield
        finally:
            _PRIVATE.clear()
            _shutdown()


@contextmanager
def _connection(address: str) -> Iterator[None]:
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"cluster.address: {address!r} is the address of the dashboard. Give the address of "
            "the control service (host:6379), or submit with `ray job submit`."
        )
    with temporary_defaults(TRAIN):
        try:
            logger.info("connecting to Ray at %s", address)
            _require_listener(address)
            _init(address=address)
        except Exception as error:  # of many kinds: refused, other version, no token
            raise InputError(
                f"cluster.address: no Ray cluster answers at {address!r} "
                f"({_first_line(error)}). Start one with `ray start --head`, or leave "
                "cluster.address and RAY_ADDRESS unset to run on this machine."
            ) from error
        try:
            yield
        finally:
            _shutdown()


def _require_listener(address: str) -> None:
    """Raise ``OSError`` at once when nobody listens; Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


def _init(**options: Any) -> None:
    """Call ``ray.init`` quietly and give the signal handlers back to whoever set them.

    Processes that it starts inherit that SIGHUP is blocked: when a terminal is gone, all of its
    processes get one, and without Ray there would be nobody left to save a checkpoint.
    """
    import ray

    verbose = logging.getLogger("orchestrator").isEnabledFor(logging.DEBUG)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=verbose, **options)
    except BaseException:
        ray.shutdown()  # half-started processes
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGTERM, handler)


def _start(**options: Any) -> None:
    """Start a private Ray; once more if the control service misses its window."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(address="local", **options)
        except Exception as error:  # Ray raises a bare Exception when a node comes up too late
            if attempt == START_ATTEMPTS:
                raise StageError(
                    f"Ray did not start on this machine: {_first_line(error)}. "
                    "`orchestrator doctor` looks for the usual causes."
                ) from error
            logger.warning("Ray did not start (%s); trying once more", _first_line(error))
        else:
            return


def _shutdown() -> None:
    import ray

    ray.shutdown()


# --- resources -----------------------------------------------------------------------------------


def _machine_cpus() -> int:
    return len(os.sched_getaffinity(0))


def _require_here(ask: Ask) -> None:
    """Refuse what this machine cannot hold, without starting anything.

    Raises:
        InputError: It has too few CPUs.
    """
    needed, cpus = ask.workers * ask.resources.get("CPU", 0.0), _machine_cpus()
    if needed > cpus:
        raise InputError(
            f"{ask.purpose} asked, {cpus} CPUs in the cluster, {cpus} free. Lower cluster.workers "
            "or cluster.cpus_per_worker, or set cluster.address to a larger cluster."
        )
    if ask.labels:
        raise InputError(
            f"cluster.labels: {dict(ask.labels)} choose nodes of a cluster; a private Ray on this "
            "machine has none. Leave them out, or set cluster.address."
        )


# --- temporary folders ---------------------------------------------------------------------------


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a short-named folder (socket paths are limited to 107 bytes) that goes at the end.

    The folder holds a lock for as long as its owner lives, so that what a killed process left
    behind is told from what a running one uses, whatever namespace its process id is in.
    """
    root = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108
    _sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=root))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{TEMP_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < ABANDONED_AFTER_S:
                continue
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, another user's, or being made at this moment
            logger.debug("left %s alone", folder)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
