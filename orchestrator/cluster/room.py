"""Room for a job's workers on a cluster: wait for it, or refuse at once what can never fit.

A cluster with an autoscaler starts nodes only when somebody asks for them, and a cluster that
others use has room when their jobs end. So a job asks with a placement group of the size of its
workers, which is what an autoscaler counts as demand, waits until it is there, and gives it back
just before the workers ask for the same. Ray Train alone would wait without a word, and Ray's tasks
without an end.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.cluster.observe.progress import Progress
from orchestrator.errors import InputError

RELEASE_WAIT_S: Final = 5.0  # an actor that just ended gives its CPUs back within this time
LOOK_EVERY_S: Final = 1.0
ROUNDING: Final = 1e-6  # 0.6 / 0.2 is 2.9999999999999996; Ray counts in steps of 1e-4
STATUS_KEY: Final = b"__autoscaling_status"
"""Key of the report of the monitor; every head node has one."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Resources that a job needs at once.

    Attributes:
        purpose: What it is for, for messages (``"cluster.workers: 2 × 1 CPU"``).
        workers: Number of workers.
        resources: What each of them takes, by Ray's names; without zeros.
        labels: Labels that their nodes must have.
        wait_s: Longest wait.
    """

    purpose: str
    workers: int
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    wait_s: float

    def places(self, nodes: Mapping[str, Mapping[str, float]]) -> int:
        """Return how many workers fit on nodes with these resources."""
        fits = (
            min(node.get(kind, 0.0) / each for kind, each in self.resources.items())
            for node in nodes.values()
        )
        return sum(math.floor(each + ROUNDING) for each in fits)


def require_room(ask: Ask, *, private: bool) -> None:
    """Return when the workers of a job fit on the connected cluster.

    Args:
        ask: What the job needs.
        private: Whether the cluster is this process's own, so that nobody else will make room.

    Raises:
        InputError: The cluster can never hold the workers (at once), or did not within the time.
    """
    if not ask.resources or ask.workers == 0:
        return
    nodes = _nodes(ask.labels)
    can_grow = not private and has_autoscaler()
    wait_s = RELEASE_WAIT_S
    if ask.places(nodes) < ask.workers and not can_grow:
        wait_s = 0.0  # nothing that ends now would change that
    elif not private:
        wait_s = max(RELEASE_WAIT_S, ask.wait_s)
    deadline = time.monotonic() + min(wait_s, RELEASE_WAIT_S)
    while (free := ask.places(_free(nodes))) < ask.workers and time.monotonic() < deadline:
        time.sleep(0.1)
    if free < ask.workers and not (wait_s > RELEASE_WAIT_S and _granted(ask, wait_s)):
        raise InputError(_refusal(ask, can_grow=can_grow, waited_s=wait_s))


def nodes_with(labels: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Return Ray's records of the living nodes with these labels, by node id."""
    import ray

    return {
        node["NodeID"]: node
        for node in ray.nodes()
        if node["Alive"] and labels.items() <= node.get("Labels", {}).items()
    }


def free_places(ask: Ask) -> dict[str, int]:
    """Return how many workers of a kind fit on what is free now, by node id."""
    free = _free(_nodes(ask.labels))
    return {node: ask.places({node: has}) for node, has in free.items() if ask.resources}


def has_autoscaler() -> bool:
    """Return whether the connected cluster starts nodes by itself.

    The monitor of a cluster without an autoscaler reports too: there, each node is a type of its
    own, named after the node's id.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    report = json.loads(_internal_kv_get(STATUS_KEY) or b"{}").get("autoscaler_report") or {}
    types = report.get("node_type_mapping") or {}
    if any(kind != f"node_{node}" for node, kind in types.items()):
        return True
    return bool(report.get("pending_launches")) or _second_version_reports_types()


def _second_version_reports_types() -> bool:
    """Return whether autoscaler v2 knows the type of a node; it makes no such report."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes = [*status.active_nodes, *status.idle_nodes]
    return bool(status.pending_launches) or any(
        node.ray_node_type_name not in {"", f"node_{node.node_id}"} for node in nodes
    )


def _granted(ask: Ask, wait_s: float) -> bool:
    """Ask for the room, show what is missing, and return whether it came in time."""
    began = time.monotonic()
    with (
        _request(ask) as group,
        Progress(f"waiting for {ask.purpose}", ask.workers, "place") as bar,
    ):
        while time.monotonic() - began < wait_s:
            if group.wait(timeout_seconds=LOOK_EVERY_S):
                return True
            nodes = _nodes(ask.labels)
            bar.update(min(ask.places(_free(nodes)), ask.workers - 1), describe(nodes, ask))
    return False


@contextmanager
def _request(ask: Ask) -> Iterator[Any]:
    """Hold a placement group for the length of the block; its resources are free afterwards."""
    import ray

    labels = [dict(ask.labels)] * ask.workers if ask.labels else None
    group = ray.util.placement_group(
        [dict(ask.resources)] * ask.workers, bundle_label_selector=labels
    )
    try:
        yield group
    finally:
        ray.util.remove_placement_group(group)


def _nodes(labels: Mapping[str, str]) -> dict[str, Mapping[str, float]]:
    """Return the resources of the living nodes with these labels, by node id."""
    return {key: node["Resources"] for key, node in nodes_with(labels).items()}


def _free(nodes: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return what is free on these nodes."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return {node: free.get(node, {}) for node in nodes}


def describe(nodes: Mapping[str, Mapping[str, float]], ask: Ask) -> str:
    """Return what nodes have and what of it is free, like ``2 CPUs in the cluster, 0 free``."""
    free = _free(nodes)
    return "; ".join(
        f"{_total(nodes, kind):g} {kind}s in the cluster, {_total(free, kind):g} free"
        for kind in ask.resources
    )


def _total(nodes: Mapping[str, Mapping[str, float]], kind: str) -> float:
    return sum(node.get(kind, 0.0) for node in nodes.values())


def _refusal(ask: Ask, *, can_grow: bool, waited_s: float) -> str:
    kinds = " or ".join(f"cluster.{kind.lower()}s_per_worker" for kind in ask.resources)
    having = f" on nodes labeled {dict(ask.labels)}" if ask.labels else ""
    advice = f"Lower cluster.workers or {kinds}, "
    if waited_s > RELEASE_WAIT_S:
        advice += "raise cluster.wait_s"
        advice += ", or see what the autoscaler says (`ray status`)." if can_grow else "."
    else:
        advice += "wait for other jobs to end, or set cluster.address to a larger cluster."
    after = f" after {waited_s:g} s" if waited_s > RELEASE_WAIT_S else ""
    return f"{ask.purpose} asked{having}, {describe(_nodes(ask.labels), ask)}{after}. {advice}"
