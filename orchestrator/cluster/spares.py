"""Spare worker processes: started and imported before a restart needs them.

A thread of the driver. Once training runs, it asks nodes to start processes of the workers' own
environment (Ray's ``PrestartWorkers``). Ray gives such a process to the next worker that starts on
its node. As many are ready as a group that starts again can take: the places of the group that
runs, on its nodes, and those of one more group where there is room. A process that was taken, or
was lost, is replaced. All of them end with the launch.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, repeat
from typing import Any, Final, TypeAlias

from orchestrator.cluster.drains import draining_nodes
from orchestrator.cluster.observe.mailbox import Team
from orchestrator.cluster.preload import MODULES, NAMESPACE, READY, Preload
from orchestrator.cluster.room import Ask, free_places, nodes_with
from orchestrator.cluster.session import RaySession
from orchestrator.config import ClusterSection, ElasticClusterSection
from orchestrator.errors import InputError

logger = logging.getLogger(__name__)

Node: TypeAlias = Mapping[str, Any]  # as Ray describes one
LOOK_EVERY_S: Final = 1.0
CHECK_EVERY: Final = 10
"""Looks between two checks that ready processes live."""
START_TIMEOUT_S: Final = 120.0
"""A process that is not ready after this time is asked for again."""
ANSWER_S: Final = 5.0
MAX_SILENT: Final = 3
"""Processes of a node that may fail to get ready before no more are asked of it."""
FOREVER_S: Final = 10 * 365 * 24 * 3600
"""Idle time after which Ray may end a spare process; it ends with its job anyway."""


def wanted(team: Mapping[str, int], free: Mapping[str, int], workers: int) -> dict[str, int]:
    """Return how many spare processes each node shall have.

    Args:
        team: Workers of the running group by node: if one is lost, all start again.
        free: Number of workers that each node still has room for.
        workers: Largest number of workers of a group.
    """
    found, left = dict(team), workers
    for node in sorted(set(free) - set(team), key=lambda node: (-free[node], node)):
        if more := min(left, free[node]):
            found[node] = more
            left -= more
    return found


def preload_for(cluster: ClusterSection, launch: str, session: RaySession) -> Preload | None:
    """Return what the processes of a launch do at their start; None: it keeps no spare ones.

    Args:
        cluster: Its cluster.
        launch: Its id.
        session: The connected Ray.

    Raises:
        InputError: `spare_workers` is true, and the job has a hook of its own.
    """
    import ray
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    asked = cluster.spare_workers if isinstance(cluster, ElasticClusterSection) else False
    if asked is False or (asked is None and session.private):
        return None
    own = ray.get_runtime_context().runtime_env.get("env_vars", {})
    if WORKER_PROCESS_SETUP_HOOK_ENV_VAR in own:
        reason = "the job has its own worker_process_setup_hook"
        if asked:
            raise InputError(
                f"cluster.spare_workers: true is not possible, {reason}. Remove that, or set false"
            )
        logger.warning("no spare worker processes: %s", reason)
        return None
    return Preload(
        launch=f"{ray.get_runtime_context().get_job_id()}-{launch}",
        threads=max(1, int(cluster.cpus_per_worker)),
        accelerated=cluster.gpus_per_worker > 0,
    )


def forget_ended_jobs() -> None:
    """Remove what drivers that were killed left in Ray's key-value store, which nobody else does.

    A launch is named after its job.
    """
    from ray._private.state import jobs
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list

    ended = {job["JobID"] for job in jobs() if job["IsDead"]}
    for kind in (MODULES, READY):
        for key in _internal_kv_list(f"{kind}/".encode(), namespace=NAMESPACE):
            if key.decode().split("/")[1].partition("-")[0] in ended:
                _internal_kv_del(key, namespace=NAMESPACE)


class Spares:
    """Keeps spare processes ready for the length of a ``with`` block.

    Args:
        name: Name of the launch in messages.
        task: What the processes know of it.
        ask: Resources and labels of a worker; the largest number of workers.
        mailbox: The launch's mailbox actor.
    """

    def __init__(self, name: str, task: Preload, ask: Ask, mailbox: Any) -> None:
        self._name, self._task, self._ask, self._mailbox = name, task, ask, mailbox
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spares", daemon=True)
        self._seen: set[tuple[str, int]] = set()
        self._silent = Counter[str]()
        self._looks = 0
        self._asked: dict[str, list[float]] = {}
        self._modules: Sequence[str] = ()
        self._complete = self._warned = self._place = False

    def __enter__(self) -> "Spares":
        self._mailbox.hold.remote(place_is_ready=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        self._ended.set()
        self._thread.join(2 * ANSWER_S)
        for key in (self._task.modules_key, self._task.ready_key()):
            _internal_kv_del(key, del_by_prefix=True, namespace=NAMESPACE)

    def _run(self) -> None:
        for step in chain([forget_ended_jobs], repeat(self._look)):
            if self._ended.wait(LOOK_EVERY_S):
                return
            try:
                step()
            except Exception as error:  # noqa: BLE001 - training goes on without spare processes
                level = logging.DEBUG if self._warned else logging.WARNING
                logger.log(level, "%s: no spare worker processes now: %s", self._name, error)
                self._warned = True

    def _look(self) -> None:
        import ray

        team: Team | None = ray.get(self._mailbox.team.remote(), timeout=ANSWER_S)
        if team is None:
            return
        self._publish(team.modules)
        leaving = draining_nodes()
        nodes = {
            key: node for key, node in nodes_with(self._ask.labels).items() if key not in leaving
        }
        here = {node: count for node, count in team.nodes.items() if node in nodes}
        free = {node: count for node, count in free_places(self._ask).items() if node in nodes}
        want = wanted(here, free, self._ask.workers)
        ready = self._ready(nodes)
        for node, count in want.items():
            missing = count - ready[node] - self._awaited(node)
            if missing > 0 and self._silent[node] < MAX_SILENT:
                prestart(nodes[node], team.environment, missing)
                self._asked.setdefault(node, []).extend([time.monotonic()] * missing)
        self._say_place(leaving & team.nodes.keys(), team, want, ready)
        complete = all(ready[node] >= count for node, count in want.items())
        if complete and not self._complete:
            text = "%s: %d spare worker processes are ready on %d nodes"
            logger.info(text, self._name, sum(want.values()), len(want))
        self._complete = complete

    def _say_place(
        self, gone: Collection[str], team: Team, want: Mapping[str, int], ready: Mapping[str, int]
    ) -> None:
        """Say whether a group that must leave nodes would find enough ready processes."""
        found = sum(min(count, ready[node]) for node, count in want.items())
        place = bool(gone) and found >= sum(team.nodes.values())
        if place != self._place:
            self._mailbox.hold.remote(place_is_ready=place)
            self._place = place

    def _publish(self, modules: Sequence[str]) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        if modules != self._modules:
            text = json.dumps(modules).encode()
            _internal_kv_put(self._task.modules_key, text, namespace=NAMESPACE)
            self._modules = modules

    def _ready(self, nodes: Mapping[str, Node]) -> Counter[str]:
        """Return how many processes are ready on each node."""
        from ray.experimental.internal_kv import _internal_kv_list

        keys = _internal_kv_list(self._task.ready_key(), namespace=NAMESPACE)
        found = {(node, int(pid)) for _, _, node, pid in (key.decode().split("/") for key in keys)}
        self._looks += 1
        if self._looks % CHECK_EVERY == 0:
            found -= self._lost(found, nodes)
        for node, _ in found - self._seen:
            if self._asked.get(node):
                self._asked[node].pop(0)
        self._seen = found
        return Counter(node for node, _ in found if node in nodes)

    def _lost(
        self, found: Collection[tuple[str, int]], nodes: Mapping[str, Node]
    ) -> set[tuple[str, int]]:
        """Forget processes that ended without work, and return them."""
        from ray.experimental.internal_kv import _internal_kv_del

        hosts = {node for node, _ in found if node in nodes}
        alive = {(node, pid) for node in hosts for pid in worker_pids(nodes[node])}
        lost = {each for each in found if each[0] in hosts and each not in alive}
        for node, pid in lost:
            _internal_kv_del(self._task.ready_key(node, pid), namespace=NAMESPACE)
        return lost

    def _awaited(self, node: str) -> int:
        """Return how many processes were asked for that are not ready yet."""
        asked, recent = self._asked.get(node, []), time.monotonic() - START_TIMEOUT_S
        self._asked[node] = [at for at in asked if at > recent]
        if silent := len(asked) - len(self._asked[node]):
            self._silent[node] += silent
            if self._silent[node] >= MAX_SILENT:
                logger.warning("%s: no spare worker processes on node %s", self._name, node)
        return len(self._asked[node])


def prestart(node: Node, environment: str, count: int) -> None:
    """Ask a node to start processes and to let them wait for work.

    Args:
        node: Ray's record of it.
        environment: Runtime environment of the processes, as Ray writes it.
        count: How many.
    """
    import ray
    from ray._private.utils import get_runtime_env_info
    from ray.core.generated import common_pb2
    from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
    from ray.runtime_env import RuntimeEnv

    info = get_runtime_env_info(RuntimeEnv.deserialize(environment))
    info.serialized_runtime_env = environment  # Ray compares the text
    request = PrestartWorkersRequest(
        language=common_pb2.Language.PYTHON,
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        runtime_env_info=info,
        keep_alive_duration_secs=FOREVER_S,
        num_workers=count,
    )
    with _calls(node) as calls:
        calls.PrestartWorkers(request, timeout=ANSWER_S)


def worker_pids(node: Node) -> set[int]:
    """Return the ids of the worker processes on a node, busy or not."""
    from ray.core.generated.node_manager_pb2 import GetWorkerPIDsRequest

    with _calls(node) as calls:
        return set(calls.GetWorkerPIDs(GetWorkerPIDsRequest(), timeout=ANSWER_S).pids)


@contextmanager
def _calls(node: Node) -> Iterator[Any]:
    """Connect to the node's own process; Ray's Python interface has neither call."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with closing(init_grpc_channel(address)) as channel:
        yield NodeManagerServiceStub(channel)
