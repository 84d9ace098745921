"""Nodes that will be taken away, like reclaimed spot instances: save, end, go on on other nodes.

Ray Train asks the control service once a second which nodes are draining, and tells every worker of
a group that has one of them. Rank 0 then stops the training loop as for Ctrl-C: the step is
finished and saved. Where spare processes are kept, that is once there are enough of them on other
nodes, and at the latest when half of the time is over: until then the group trains on. The attempt
ends with a :class:`DrainedError`, and Ray Train starts the next one, for which it uses no draining
node; without room it waits.

``ray.train.get_preemption_info`` returns what rank 0 was told, on every rank. For that, all ranks
meet in an actor, which would be one more round trip per step. The training loop makes rank 0's word
everybody's anyway, so rank 0 reads here what that function would broadcast.
"""

import logging
import time
from typing import Any

from orchestrator.training.events import NodesDraining

logger = logging.getLogger(__name__)


class DrainedError(Exception):
    """A worker group ends because one of its nodes is being drained; what it did is saved."""


def _told() -> Any:
    """Return Ray Train's record of draining nodes of this worker's group, if there is one."""
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info
    except (ImportError, AttributeError, RuntimeError) as error:  # other Ray, or not a Train worker
        logger.debug("no notice of draining nodes: %s", error)
        return None


def seconds_left() -> float | None:
    """Return how long the draining nodes of this worker's group stay; None: none is draining.

    Where nobody says how long, that is 0.
    """
    info = _told()
    if info is None:
        return None
    return max(0.0, info.deadline_ms / 1000 - time.time()) if info.deadline_ms else 0.0


def drain_notice() -> NodesDraining | None:
    """Return what Ray Train told this worker about draining nodes of its group, if it did."""
    info = _told()
    if info is None:
        return None
    left = "" if info.deadline_ms is None else f" in {seconds_left():.0f} s"
    nodes = ", ".join(info.preempted_node_ids)
    return NodesDraining(
        message=f"node {nodes} of ranks {info.preempted_ranks} will be taken away{left}: the last "
        "step is saved, and training goes on as soon as other nodes have room for it",
    )


def draining_nodes() -> frozenset[str]:
    """Return the ids of the cluster's nodes that are draining: nothing new starts on them."""
    from ray._private.state import state  # Ray has no public function that answers this

    return frozenset(state.get_draining_nodes())
