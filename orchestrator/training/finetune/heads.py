"""Heads that are trained: named after tasks, continued, or made in the layout of a class."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from orchestrator.data.rows.rows import TaskData
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import fitting_head
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SpanConfig
from orchestrator.modeling.targets.configs import (
    ClsConfig,
    Pooling,
    SequenceHeadConfig,
    TargetConfig,
)
from orchestrator.modeling.targets.token_configs import TagsConfig
from orchestrator.tasks.base import HeadOptions
from orchestrator.training.config import FineTuneOptions

if TYPE_CHECKING:
    from orchestrator.training.finetune.lessons import Lesson

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


LAYERED = (SequenceHeadConfig, TagsConfig, SpanConfig, ChoiceConfig)
"""Heads whose layers may be others than those of a new head: imported ones have their class's."""
LAYERS = ("pooling", "hidden")
"""Options of a new head's layers."""
USUAL = HeadOptions()


def trained_head(
    model: ModelConfig, lesson: "Lesson", renewed: Collection[str], config: FineTuneOptions
) -> TargetConfig:
    """Return the config of the head that a lesson trains.

    A head that the package has keeps its layers. With ``exportable`` a new one gets those of the
    class of transformers.

    Args:
        model: Config of the package's model.
        lesson: What is learned.
        renewed: Names of the package's heads that are made anew.
        config: Options of a new head.

    Raises:
        InputError: ``exportable``, and no class has this body with such a head; or an option that
            would change nothing.
    """
    options = HeadOptions(pooling=config.pooling, hidden=config.hidden, dropout=config.dropout)
    target = lesson.target(options)
    asked = {name for name in LAYERS if getattr(options, name) != getattr(USUAL, name)}
    if config.exportable and asked:
        raise InputError(
            f"train.{min(asked)}: with train.exportable the class of transformers decides it. "
            "Leave one of them out."
        )
    own = None
    if isinstance(target, LAYERED) and lesson.head not in renewed:
        own = own_head(model, target)
    if config.exportable and (own is not None or not isinstance(target, LAYERED)):
        kept = f"the package's head {target.name!r}" if own is not None else "such a head"
        raise InputError(
            f"train.exportable: {kept} ({target.type_name()}) keeps its layers. Leave it out."
        )
    if own is not None:
        return _continued(own, target, options, asked)
    if not config.exportable:
        return target
    return _weighted(fitting_head(model, target), target)


def _continued(
    own: TargetConfig, target: TargetConfig, options: HeadOptions, asked: Collection[str]
) -> TargetConfig:
    """Return a head of the package with the options that change no layer.

    Raises:
        InputError: An option asks for other layers.
    """
    for name in sorted(asked):
        given, found = getattr(options, name), getattr(own, name, None)
        if found is not None and found != given:
            raise InputError(
                f"train.{name}: {given!r}, but the package's head {own.name!r} has {found!r} and "
                "keeps its layers. Leave it out, or name another head."
            )
    if options.dropout != USUAL.dropout and hasattr(own, "dropout"):
        own = own.model_copy(update={"dropout": options.dropout})
    return _weighted(own, target)


def _weighted(head: TargetConfig, target: TargetConfig) -> TargetConfig:
    """Return a head with the class weights of another one, if it has any."""
    weights = getattr(target, "class_weights", None)
    return head if weights is None else head.model_copy(update={"class_weights": weights})


def own_head(model: ModelConfig, target: TargetConfig) -> TargetConfig | None:
    """Return the package's head of the same name, type and number of labels; None: it has none."""
    for head in model.target:
        labels = [getattr(each, "num_labels", 0) for each in (head, target)]
        if head.name == target.name and type(head) is type(target) and labels[0] == labels[1]:
            return head
    return None
