"""The teacher of a job: which of its heads teaches which task, and whether it can."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError
from orchestrator.finetuning.config import TeacherSection
from orchestrator.inference.heads import package_tasks
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.package import has_weights, read_config
from orchestrator.tasks.base import AnyTask
from orchestrator.training.config import FineTuneOptions
from orchestrator.training.distillation.config import (
    DistillationOptions,
    LayerPlan,
    TeacherPlan,
    spread_layers,
)
from orchestrator.training.distillation.losses import DIVERGENCES
from orchestrator.training.distillation.teacher import STATES
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.zoo import Package

COMPARED_TEXTS = 1000
"""Training texts that both tokenizers must read as the same tokens."""
ANSWERS_ALONE = "Set teacher.hidden_weight to 0 to learn from its answers alone."


def plan_teacher(
    section: TeacherSection,
    teacher: Package,
    student: Package,
    lessons: Sequence[Lesson],
    train: FineTuneOptions,
) -> TeacherPlan:
    """Decide what a teacher teaches.

    Raises:
        InputError: It answers another kind of task or other labels, or its layers cannot be
            compared with the student's.
    """
    options = DistillationOptions(**section.model_dump(exclude={"package"}))
    answered = package_tasks(teacher)
    tasks = {each.head: _fitting(each.task, answered, teacher).spec for each in lessons}
    if STATES in tasks:
        raise InputError(f"head {STATES!r}: distillation uses this name. Give another one.")
    layers = None
    if options.hidden_weight:
        mine, theirs = read_config(student.path), read_config(teacher.path)
        _require_weights(teacher)
        layers = _layers(options, mine, theirs)
        longest = min(train.max_length, mine.max_position_embeddings)
        if longest > theirs.max_position_embeddings:
            raise InputError(
                f"teacher {teacher.ref} reads {theirs.max_position_embeddings} tokens, "
                f"train.max_length is {longest}. Lower it. {ANSWERS_ALONE}"
            )
        for lesson in lessons:
            _require_same_tokens(lesson, student, teacher, longest)
    return TeacherPlan(
        folder=str(Path(teacher.path).resolve()), options=options, tasks=tasks, layers=layers
    )


def _fitting(task: AnyTask, answered: dict[str, AnyTask], teacher: Package) -> AnyTask:
    """Return the teacher's task for one of the student's."""
    kind, ref = task.kind(), teacher.ref
    if kind not in DIVERGENCES:
        raise InputError(
            f"task {task.head!r} is of kind {kind}; a teacher teaches {', '.join(DIVERGENCES)}. "
            "Remove teacher."
        )
    same = [each for each in answered.values() if each.kind() == kind]
    found = answered.get(task.head)
    if found is None or found.kind() != kind:
        equal = [each for each in same if each.labels == task.labels]
        found = next(iter(equal or same), None)
        if len(equal) > 1:
            names = ", ".join(each.head for each in equal)
            raise InputError(
                f"teacher {ref} has several heads for task {task.head!r}: {names}. Name the task's "
                "head as the one that teaches it."
            )
    if found is None:
        known = ", ".join(f"{each.head} ({each.kind()})" for each in answered.values()) or "none"
        raise InputError(
            f"teacher {ref} answers no task of kind {kind}, which {task.head!r} is. Its tasks: "
            f"{known}. Fine-tune it on the same data first."
        )
    if found.labels != task.labels:
        raise InputError(
            f"task {task.head!r} has the labels {list(task.labels)}, head {found.head!r} of "
            f"teacher {ref} has {list(found.labels)}. Names and order must be equal: fine-tune the "
            "teacher on the same data."
        )
    if found.config.model_dump() != task.config.model_dump() and kind == "regression":
        raise InputError(
            f"task {task.head!r} and head {found.head!r} of teacher {ref} have other options: "
            f"{task.config.model_dump()} and {found.config.model_dump()}."
        )
    return found


def _layers(options: DistillationOptions, student: ModelConfig, teacher: ModelConfig) -> LayerPlan:
    """Return which layers are compared."""
    counts = []
    for name, model in (("the student", student), ("the teacher", teacher)):
        if not isinstance(model.encoder, TransformerConfig) or model.decoder is not None:
            raise InputError(
                f"{name} is not a transformer encoder, and only layers of those are compared. "
                f"{ANSWERS_ALONE}"
            )
        counts.append(model.encoder.num_layers)
    mine, theirs = counts
    chosen = options.layers or spread_layers(mine, theirs)
    if len(chosen) != mine + 1 or max(chosen) > theirs:
        raise InputError(
            f"teacher.layers: {list(chosen)} must be {mine + 1} numbers, one for the embedding and "
            f"each layer of the student, between 0 and {theirs}."
        )
    width = None if student.hidden_size == teacher.hidden_size else teacher.hidden_size
    return LayerPlan(student=tuple(range(mine + 1)), teacher=chosen, width=width)


def _require_weights(teacher: Package) -> None:
    if not has_weights(teacher.manifest.files):
        raise InputError(
            f"teacher {teacher.ref} is of kind {teacher.kind!r} and has no layers to compare with. "
            f"{ANSWERS_ALONE}"
        )


def _require_same_tokens(
    lesson: Lesson, student: Package, teacher: Package, max_length: int
) -> None:
    """Refuse rows that the two models read as different tokens."""
    rows = lesson.data.train
    if rows.modality not in ("text", "pair"):
        raise InputError(
            f"task {lesson.head!r}: layers are compared token by token, and its rows are of "
            f"{rows.modality}. {ANSWERS_ALONE}"
        )
    texts = [text.replace("\n", " ") for text in rows.texts[:COMPARED_TEXTS]]
    pairs = None if rows.pairs is None else rows.pairs[:COMPARED_TEXTS]
    read = [
        TextProcessor.load(package.path).arrays(texts, pairs, max_length, "right")
        for package in (student, teacher)
    ]
    if any(read[0][name].tolist() != read[1][name].tolist() for name in read[0]):
        raise InputError(
            f"{student.ref} and teacher {teacher.ref} read the texts of {lesson.head!r} as "
            f"different tokens, so their layers cannot be compared. {ANSWERS_ALONE}"
        )
