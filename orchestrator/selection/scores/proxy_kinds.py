"""Proxy scores that apply to a task, by its kind; light, as plans are made without torch.

Classes can be compared with features by every proxy, numbers by some. Questions about contexts and
pairs without scores have no label that features of a frozen model can be compared with.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.selection.scores.base import PROXIES, applicable, unit_proxies
from orchestrator.selection.target_tasks import TargetTask

if TYPE_CHECKING:
    from orchestrator.selection.config import RecallConfig

NO_PROXY = "no proxy applies to tasks of kind {kind}: history and size decide recall"

CLASS_KINDS = ("classification", "tags", "multiple_choice")
NUMBER_KINDS = ("multilabel", "regression", "similarity")


def proxies_for(names: Iterable[str], task: TargetTask) -> tuple[str, ...]:
    """Return those of some proxies that apply to a task."""
    if task.kind in CLASS_KINDS:
        heads = task.kind == "classification"
        return tuple(n for n in names if heads or not PROXIES.component_class(n).reads_head)
    scored = task.kind != "similarity" or bool(task.spec.options.get("scored"))
    return applicable(names, numbers=True) if task.kind in NUMBER_KINDS and scored else ()


def planned_proxies(config: "RecallConfig", task: TargetTask) -> tuple[str, ...]:
    """Return the proxies of a job that apply to its task.

    Raises:
        InputError: Mode paper multiplies by a proxy between 0 and 1, and the task has none.
    """
    names = proxies_for(config.proxies, task)
    if config.mode == "paper" and not (task.kind in CLASS_KINDS and unit_proxies(names)):
        raise InputError(
            f"recall.mode paper multiplies by a proxy of classes, which tasks of kind {task.kind} "
            f"lack with recall.proxies {', '.join(config.proxies)}. Use mode default."
        )
    return names
