"""Imports of a worker process, made before it has work.

Most of the time between a lost worker and the next step is Python that imports libraries. Ray calls
`preload` in each process of a launch as it starts, so that a process which was started in advance
(`orchestrator.cluster.spares`) has imported everything when a worker group takes it: exactly what
the workers that train have imported. Ray's own ways do less: a node imports what
``RAY_preload_python_modules`` named when the node was started, in every process; and a process that
has run a task is never given to an actor.
"""

import ctypes
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Final

from orchestrator.cluster.processes import prepare_process
from orchestrator.config.strict import StrictModel

logger = logging.getLogger(__name__)

TASK: Final = "ORCHESTRATOR_PRELOAD"
"""Environment variable that holds a `Preload` as JSON."""
NAMESPACE: Final = b"orchestrator"
MODULES: Final = "modules"
READY: Final = "ready"
"""First parts of keys in Ray's key-value store; the launch is the second one."""
LOOK_EVERY_S: Final = 5.0  # a spare process looks whether it is still needed
MIN_FREE_BYTES: Final = 2 * 2**30
"""Free memory without which a process imports nothing before it has work."""
GPU_SAFE: Final = ("numpy", "orchestrator", "pandas", "pyarrow", "pydantic", "ray", "torch")
"""Packages that do not look for GPUs on import. Ray says which GPUs a process may use when it gets
work, and CUDA reads that only once: with GPUs nothing else is imported in advance."""
GPU_UNSAFE: Final = ("orchestrator.cluster.engines", "torch._dynamo", "torch._inductor")
"""Their parts that do, or that import DeepSpeed, which does."""
CUDA_NOT_INITIALIZED: Final = 3
"""Answer of CUDA's driver to a process that has not called it before."""


class Preload(StrictModel):
    """Launch that a process belongs to, and what it must know of it at its start."""

    launch: str
    """Id of the launch, which begins with that of its job."""
    threads: int
    """Threads of a worker, for libraries that ask on import."""
    accelerated: bool
    """Whether workers have GPUs."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes of the launch.

        Ray's interface takes a ``worker_process_setup_hook`` for a whole job only. A process looks
        for the variable alone.
        """
        from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

        hook = f"{__name__}.{preload.__name__}"
        return {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: hook, TASK: self.model_dump_json()}

    @property
    def modules_key(self) -> bytes:
        """Key of the names of the modules in Ray's key-value store."""
        return f"{MODULES}/{self.launch}".encode()

    def ready_key(self, node: str = "", pid: int | None = None) -> bytes:
        """Return the key of a ready process, or the first part of those of a node or launch."""
        parts = [READY, self.launch, node, *([] if pid is None else [str(pid)])]
        return "/".join(parts).encode()


def imported_modules() -> list[str]:
    """Return the names of the modules that this process has imported, in order."""
    return [
        name
        for name, module in list(sys.modules.items())
        if getattr(module, "__spec__", None) is not None and name != "__main__"
    ]


def preload() -> None:
    """Import what the workers of the launch have imported, and note that this process is ready.

    Called by Ray when the process starts. Does nothing before the first group of the launch trains.
    Raises nothing: Ray would end the process, and a worker that imports by itself is only slower.
    """
    try:
        task = Preload.model_validate_json(os.environ[TASK])
        prepare_process(accelerated=task.accelerated)
        os.environ.setdefault("OMP_NUM_THREADS", str(task.threads))  # Ray would do so with the work
        _import_all(task)
    except Exception:
        logger.warning("not everything was imported in advance", exc_info=True)


def _import_all(task: Preload) -> None:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    names = _internal_kv_get(task.modules_key, namespace=NAMESPACE)
    if names is None:
        return
    if (free := _free_bytes()) < MIN_FREE_BYTES:
        logger.warning("nothing was imported in advance: %d MiB are free", free // 2**20)
    else:
        began = time.monotonic()
        failed = import_modules(early(json.loads(names), accelerated=task.accelerated))
        logger.info("imported %d modules in %.1f s", len(sys.modules), time.monotonic() - began)
        if failed:
            logger.warning("not imported in advance: %s", ", ".join(failed))
        if task.accelerated and cuda_is_initialized():
            logger.error("an import looked for GPUs: no process imports in advance any more")
            _internal_kv_put(task.modules_key, b"[]", namespace=NAMESPACE)
            os._exit(1)  # it would use GPUs that are not its own
    _internal_kv_put(_own_key(task), b"", namespace=NAMESPACE)
    threading.Thread(target=_wait_for_work, args=(task,), name="spare", daemon=True).start()


_taken = threading.Event()


def _wait_for_work(task: Preload) -> None:
    """End this process when its launch is over: another launch of the job would never take it."""
    from ray.experimental.internal_kv import _internal_kv_exists

    while not _taken.wait(LOOK_EVERY_S):
        over = not _internal_kv_exists(task.modules_key, namespace=NAMESPACE)
        if over and not _taken.is_set():
            os._exit(0)


def early(names: Iterable[str], *, accelerated: bool) -> list[str]:
    """Return the modules that may be imported before it is known which GPUs a process uses.

    Args:
        names: All modules.
        accelerated: Whether it will use any.
    """
    return [
        name
        for name in names
        if not accelerated
        or (name.partition(".")[0] in GPU_SAFE and not f"{name}.".startswith(_UNSAFE_PARTS))
    ]


_UNSAFE_PARTS = tuple(f"{name}." for name in GPU_UNSAFE)


def cuda_is_initialized(library: str = "libcuda.so.1") -> bool:
    """Return whether this process has called CUDA's driver, which then has read the environment.

    Args:
        library: File of the driver; False where there is none.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return False
    answer: int = driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))
    return answer != CUDA_NOT_INITIALIZED


def import_modules(names: Iterable[str]) -> list[str]:
    """Import modules in order, and return the names of those that cannot be imported."""
    failed = []
    for name in names:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - of any module, and none of them is needed yet
            logger.debug("%s: %s", name, error)
            failed.append(name)
    return failed


def take() -> None:
    """Note that this process has work and is not a spare one any more."""
    _taken.set()
    if TASK in os.environ:
        from ray.experimental.internal_kv import _internal_kv_del

        key = _own_key(Preload.model_validate_json(os.environ[TASK]))
        _internal_kv_del(key, namespace=NAMESPACE)


def _own_key(task: Preload) -> bytes:
    import ray

    return task.ready_key(ray.get_runtime_context().get_node_id(), os.getpid())


def _free_bytes() -> int:
    """Return the free memory of this host or container, as Ray's memory monitor counts it."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    return int(get_system_memory() - get_used_memory())
