"""Peers of a Tune actor: the other workers of a trial that takes several.

Ray Train runs one function on a group of workers and ends the group with it, and cannot run inside
of a Tune actor that is used for many trials. So the actor of a trial is rank 0, and starts the
other ranks as actors in the places that Tune has reserved for the trial. They stay with it from
trial to trial, and end with it: Ray ends the actors of an owner that is gone.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster.processes import (
    ACCELERATED_BACKEND,
    COLLECTIVE_TIMEOUT_S,
    load_named,
    prepare_process,
)

if TYPE_CHECKING:
    from orchestrator.cluster.context import Worker

START_TIMEOUT_S = 300.0
"""Longest wait for the processes of peers, which import torch."""
LAST_WORD_S = 15.0
"""Longest wait for what peers say of a failure that this rank noticed first."""
NOTICE_S = 5.0
"""Time in which a rank notices by itself that a peer is gone, if its backend does."""
logger = logging.getLogger(__name__)


class GroupError(RuntimeError):
    """A worker of a trial was lost, or exchanged nothing for too long; a retry may succeed."""


def peers_of_actor() -> "RayPeers | None":
    """Return the peers of this Tune actor's trials; None: they take one worker each."""
    placement = get_current_placement_group()
    if placement is None or placement.bundle_count == 1:
        return None
    return RayPeers(placement)


class RayPeers:
    """The :class:`~orchestrator.training.worker_context.Peers` of a Tune actor.

    Args:
        placement: Places of the trial, one for each worker; the first one is this actor's.
    """

    def __init__(self, placement: PlacementGroup) -> None:
        self._placement, self._bundles = placement, placement.bundle_specs
        self._actors: list[Any] = []
        self._context: Worker | None = None

    def start(self, follower: str) -> "Worker":
        """Start them unless they run; return rank 0's view of the group; see the protocol."""
        if self._context is not None:
            return self._context
        world = len(self._bundles)
        logger.info("starting %d more workers of a trial", world - 1)
        self._actors = [self._actor(rank) for rank in range(1, world)]
        with self._all_of([actor.ready.remote() for actor in self._actors], START_TIMEOUT_S):
            pass
        host, gpus = ray.util.get_node_ip_address(), self._bundles[0].get("GPU", 0.0)
        store = _store(host, 0, world)
        address = host, store.port, gpus, follower
        joins = [
            actor.join.remote(rank, world, *address) for rank, actor in enumerate(self._actors, 1)
        ]
        with self._all_of(joins):
            self._context = _joined(store, 0, world, gpus)
        return self._context

    @contextmanager
    def doing(self, method: str, *arguments: str | float | None) -> Iterator[None]:
        """Call a method of each follower while the block runs; see the protocol."""
        with self._all_of([actor.call.remote(method, arguments) for actor in self._actors]):
            yield

    @contextmanager
    def _all_of(self, calls: Sequence[Any], wait_s: float = COLLECTIVE_TIMEOUT_S) -> Iterator[None]:
        """Run a block beside calls; when it ends they have ended, or the group is closed."""
        ended = threading.Event()
        own: Exception | None = None
        watch = threading.Thread(target=_watch, args=(calls, ended), name="peers", daemon=True)
        watch.start()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - of any kind; judged below
            own = error
        except BaseException:
            self.close()
            raise
        finally:
            ended.set()
        found: dict[int, Exception] = {}
        if own is None:
            found = _failures(calls, wait_s)
        elif _of_group(own):
            _abort()  # else peers that are well would wait for this rank
            found = _failures(calls, LAST_WORD_S)
        if own is None and not found:
            return
        self.close()
        cause = cause_of(own, found, len(self._bundles))
        if cause is own:
            raise own
        raise cause from own

    def close(self) -> None:
        """End the peers and the group."""
        from torch import distributed

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._context = [], None
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _actor(self, rank: int) -> Any:
        takes: Mapping[str, float] = self._bundles[rank]
        others = {kind: each for kind, each in takes.items() if kind not in {"CPU", "GPU"}}
        return (
            ray.remote(TrialPeer)
            .options(
                num_cpus=takes.get("CPU", 0.0),
                num_gpus=takes.get("GPU", 0.0),
                resources=others or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, rank),
            )
            .remote(accelerated=takes.get("GPU", 0.0) > 0)
        )


class TrialPeer:
    """Process of one peer."""

    def __init__(self, *, accelerated: bool) -> None:
        prepare_process(accelerated=accelerated)
        self._follower: Any = None

    def ready(self) -> None:
        """Import what the group needs, which takes seconds."""
        import orchestrator.cluster.context
        import orchestrator.modeling.package  # noqa: F401

    def join(self, rank: int, world: int, host: str, port: int, gpus: float, follower: str) -> None:
        """Join the group and make the follower."""
        store = _store(host, port, world)
        self._follower = load_named(follower)(_joined(store, rank, world, gpus))

    def call(self, method: str, arguments: Sequence[str | float | None]) -> None:
        """Call a method of the follower."""
        try:
            getattr(self._follower, method)(*arguments)
        except BaseException as error:
            _abort()  # the other ranks would wait for this one in a collective
            if isinstance(error.__cause__, OSError):  # it may pass; causes are not sent along
                raise GroupError(str(error)) from error
            raise


def _store(host: str, port: int, world: int) -> Any:
    """Return the store where ranks meet; if ``port`` is 0, a new one on a free port."""
    from torch import distributed

    return distributed.TCPStore(  # type: ignore[attr-defined]  # torch re-exports it in silence
        host, port, world, is_master=port == 0, wait_for_workers=False
    )


def _joined(store: Any, rank: int, world: int, gpus: float) -> "Worker":
    """Join the process group of a trial."""
    from torch import distributed

    from orchestrator.cluster.context import Worker
    from orchestrator.training.worker_context import reserved_device

    device = reserved_device(gpus)
    distributed.init_process_group(
        ACCELERATED_BACKEND if gpus else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    return Worker(rank, world, Path.cwd(), device)


def _abort() -> None:
    """End what this rank waits for in its group, and what others wait for from it."""
    from torch import distributed

    if (group := distributed.group.WORLD) is not None:
        group.abort()


def _watch(calls: Sequence[Any], ended: threading.Event) -> None:
    """End this rank's collective when a peer has failed: gloo notices by itself, NCCL does not."""
    waiting = list(calls)
    while waiting and not ended.is_set():
        done, waiting = ray.wait(waiting, timeout=1.0)
        if _failures(done, 0.0) and not ended.wait(NOTICE_S):
            logger.warning("a worker of the trial failed; its group is ended")
            _abort()
            return


def _failures(calls: Sequence[Any], wait_s: float) -> dict[int, Exception]:
    """Return what calls raised, by rank; a call that does not end in time counts as lost."""
    found: dict[int, Exception] = {}
    _, late = ray.wait(list(calls), num_returns=len(calls), timeout=wait_s) if calls else ([], [])
    for rank, call in enumerate(calls, 1):
        if call in late:
            found[rank] = GroupError(f"does not answer for {wait_s:g} s")
            continue
        try:
            ray.get(call)
        except ray.exceptions.RayTaskError as error:
            found[rank] = error.cause if isinstance(error.cause, Exception) else error
        except ray.exceptions.RayError as error:
            found[rank] = GroupError(f"was lost ({type(error).__name__})")
    return found


def _of_group(error: Exception) -> bool:
    """Return whether an error may be another rank's: torch raises these from collectives."""
    return isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)


def cause_of(own: Exception | None, found: Mapping[int, Exception], world: int) -> Exception:
    """Return the error that the others follow from."""
    if own is not None and not _of_group(own):
        return own
    first = next((each for each in found.values() if not _of_group(each)), None)
    if first is not None:
        return first
    lost = {rank: each for rank, each in found.items() if isinstance(each, GroupError)}
    told = lost or ({} if own is None else {0: own}) | dict(found)
    reasons = (f"worker {rank} of {world}: {_first_line(each)}" for rank, each in told.items())
    return GroupError("; ".join(reasons))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
