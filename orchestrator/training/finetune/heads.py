"""Classification heads named after tasks."""

import re

from orchestrator.data.rows.rows import TaskData
from orchestrator.modeling.targets.configs import ClsConfig, Pooling

FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]+")


def head_name(task: str) -> str:
    """Return a task's name as a name of a head: letters, digits, ``_`` and ``-``."""
    return FORBIDDEN.sub("_", task).strip("_-") or "task"


def classification_head(
    task: TaskData,
    pooling: Pooling,
    *,
    hidden: bool = False,
    dropout: float = 0.1,
    name: str | None = None,
) -> ClsConfig:
    """Return the config of a head with one output for each of a task's labels.

    Args:
        task: Whose labels.
        pooling: How token vectors become one.
        hidden: Put a tanh layer below the classifier.
        dropout: Dropout rate before the classifier.
        name: Name of the head; default: the task's.
    """
    return ClsConfig(
        name=head_name(task.name if name is None else name),
        num_labels=len(task.label_names),
        pooling=pooling,
        hidden=hidden,
        dropout=dropout,
    )
