"""The tasks of a package: which heads answer what, and which one answers where none is named."""

from typing import TYPE_CHECKING

from orchestrator.config import did_you_mean
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import read_config
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.token_configs import PromptConfig
from orchestrator.tasks.base import AnyTask, build_task, kind_of_target, task_class
from orchestrator.zoo.suite import TaskSpec, read_suite

if TYPE_CHECKING:
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.zoo.package import Package

PAIR_LABELS = 2
"""Outputs of the heads that judge a sentence pair."""


def package_tasks(package: "Package") -> dict[str, AnyTask]:
    """Return the tasks of a package by the name of their head.

    The suite says what each head answers. Heads that it does not list (older packages, imported
    checkpoints) are described by their config and the label names in the manifest.

    Raises:
        IntegrityError: The manifest names another number of labels than a head has outputs.
    """
    suite = read_suite(package)
    found = {} if suite is None else {head: exam.task for head, exam in suite.exams.items()}
    specs: dict[str, TaskSpec] = {}
    config = read_config(package.path)
    for target in config.target:
        spec = found.get(target.name) or _described(package, target, config)
        if spec is not None:
            specs[target.name] = spec
    return {head: build_task(spec) for head, spec in specs.items()}


def default_head(package: "Package", tasks: dict[str, AnyTask]) -> str | None:
    """Return the head that answers where none is named: the one the package was made for.

    The manifest says so, else the suite; of packages without either, it is the only head. None:
    there is no head, or nothing says which of several.
    """
    suite, stated = read_suite(package), package.manifest.task
    for name in (getattr(stated, "default", None), suite and suite.default):
        if isinstance(name, str) and name in tasks:
            return name
    # A head of pre-training that also writes text does not compete with one that was fine-tuned.
    learned = [name for name, task in tasks.items() if not task.writes_text] or list(tasks)
    return learned[0] if len(learned) == 1 else None


def require_head(
    ref: str, tasks: dict[str, AnyTask], default: str | None, wanted: str | None
) -> AnyTask:
    """Return the task to answer.

    Args:
        ref: Reference of the package, for messages.
        tasks: Its tasks.
        default: Its default head.
        wanted: The head that is asked for; None: the default.

    Raises:
        InputError: There is no such head, or none is named and nothing says which.
    """
    if not tasks:
        raise InputError(f"{ref} answers no labelled task: it has no head for one. Fine-tune it.")
    name = default if wanted is None else wanted
    if name is None:
        raise InputError(f"{ref} has several heads: {', '.join(tasks)}. Name one with target=.")
    if name not in tasks:
        raise InputError(f"{ref} has no head {name!r}. {did_you_mean(name, tasks, 'Heads')}")
    return tasks[name]


def _described(package: "Package", target: TargetConfig, model: "ModelConfig") -> TaskSpec | None:
    """Describe a head by its config; None for a head of pre-training alone."""
    kind = kind_of_target(target, model)
    if kind is None or isinstance(target, PromptConfig):  # its template is in the suite alone
        return None
    manifest = package.manifest.task
    labels = () if manifest is None else tuple(manifest.labels.get(target.name, ()))
    options: dict[str, object] = {}
    if kind == "regression":
        options = {"num_values": getattr(target, "num_labels", 1)}
        return TaskSpec(kind=kind, head=target.name, options=options)
    if task_class(kind).writes_text:
        options = {"decoder": model.decoder is not None}
    if not task_class(kind).has_labels:
        return TaskSpec(kind=kind, head=target.name, options=options)
    count = int(getattr(target, "num_labels", PAIR_LABELS))
    if not labels:  # Hugging Face's convention for classes without names
        labels = tuple(f"LABEL_{index}" for index in range(count))
    if len(labels) != count:
        raise IntegrityError(
            f"{package.ref}: head {target.name!r} has {count} outputs, its manifest names "
            f"{len(labels)} labels."
        )
    return TaskSpec(kind=kind, head=target.name, labels=labels)
