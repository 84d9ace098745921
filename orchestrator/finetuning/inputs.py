"""The inputs of a job: its package, its tasks with their rows, the heads, the learning rate.

The driver resolves them once (`resolve`) and sends the workers what it decided; a worker reads the
same rows again (`lessons_of`).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.unknown import unknown_share
from orchestrator.data.rows.checks import check_data
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError, IntegrityError
from orchestrator.finetuning.config import FinetuneConfig, LessonSection
from orchestrator.finetuning.state import FinetuneJob, PlannedLesson
from orchestrator.finetuning.teaching import plan_teacher
from orchestrator.inference.heads import package_tasks
from orchestrator.inference.prompting import completed
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import has_weights, read_config
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.tasks.base import (
    AnyTask,
    HeadOptions,
    build_task,
    form_of,
    forms_read,
    kind_of_target,
    task_class,
    task_for,
    text_processor,
)
from orchestrator.tasks.detection import Detected, detect_kind
from orchestrator.training.distillation.config import TeacherPlan
from orchestrator.training.distillation.teacher import Teacher
from orchestrator.training.finetune.finetuner import Method
from orchestrator.training.finetune.heads import head_name, trained_head
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.training.learning_rates import Rate, rate_for
from orchestrator.zoo import Package, Zoo


@dataclass(frozen=True, eq=False)
class FinetuneInputs:
    """Inputs of a job.

    Attributes:
        config: The job.
        package: The package to start from.
        lessons: What is learned, rows loaded.
        detected: How each task's kind was found.
        teacher: The package that teaches.
        teaching: What it teaches.
    """

    config: FinetuneConfig
    package: Package
    lessons: tuple[Lesson, ...]
    detected: tuple[Detected, ...]
    teacher: Package | None = None
    teaching: TeacherPlan | None = None

    @cached_property
    def model(self) -> ModelConfig:
        """The package's model."""
        return read_config(self.package.path)

    @cached_property
    def earlier(self) -> dict[str, AnyTask]:
        """The labelled tasks that the package answers."""
        return package_tasks(self.package)

    @property
    def max_length(self) -> int:
        """Tokens a text is cut to."""
        return min(self.config.train.max_length, self.model.max_position_embeddings)

    @cached_property
    def unknown_shares(self) -> dict[str, float]:
        """Share of training tokens that the package's tokenizer does not know, by head."""
        words = text_processor(open_processor(self.package.path))
        found = {lesson.head: unknown_share(words, lesson.data.train) for lesson in self.lessons}
        return {head: share for head, share in found.items() if share is not None}

    @property
    def kept(self) -> tuple[TargetConfig, ...]:
        """Heads of labelled tasks that stay in the model untrained."""
        if not self.config.keep_heads:
            return ()
        return tuple(head for head in self.model.target if head.name in self._others)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Heads of labelled tasks that the result does not have any more."""
        return () if self.config.keep_heads else tuple(self._others)

    @property
    def _others(self) -> list[str]:
        mine = {lesson.head for lesson in self.lessons}
        return [name for name in self.earlier if name not in mine]

    @property
    def renewed(self) -> tuple[str, ...]:
        """Heads that are made anew: the package has one of that name for other labels."""
        return tuple(
            lesson.head
            for lesson in self.lessons
            if lesson.head in self.earlier
            and self.earlier[lesson.head].labels != lesson.task.labels
        )

    @cached_property
    def usual_rate(self) -> Rate:
        """The learning rate by the rule."""
        lora = self.config.train.lora is not None
        return rate_for(Zoo(self.config.run.zoo), self.package, lora=lora)

    @property
    def planned(self) -> tuple[PlannedLesson, ...]:
        """The lessons as workers get them."""
        return tuple(
            PlannedLesson(
                task=lesson.task.spec,
                data=_absolute(section.data),
                weight=lesson.weight,
                class_weights=lesson.class_weights,
            )
            for lesson, section in zip(self.lessons, self.config.lessons, strict=True)
        )


def resolve(
    config: FinetuneConfig, package: Package, teacher: Package | None = None
) -> FinetuneInputs:
    """Read the rows of a job's tasks and decide what its heads are, and who teaches them.

    Args:
        config: The job.
        package: The package to start from.
        teacher: The package that teaches; None: the one that the config names, if any.

    Raises:
        InputError: The package cannot be trained, or a task cannot be read or does not fit.
    """
    if not has_weights(package.manifest.files):
        raise InputError(
            f"package {package.ref} is of kind {package.kind!r} and holds no model.safetensors to "
            "train. Give a pretrained, imported, finetuned or continual package."
        )
    model = read_config(package.path)
    settings = (
        ["task"]
        if config.data is not None
        else [f"tasks.{index}.task" for index in range(len(config.tasks))]
    )
    found = [
        _lesson(config, section, model, setting)
        for section, setting in zip(config.lessons, settings, strict=True)
    ]
    lessons = tuple(lesson for lesson, _ in found)
    inputs = FinetuneInputs(config, package, lessons, tuple(each for _, each in found))
    _require_fitting(inputs)
    if config.teacher is None:
        return inputs
    teacher = teacher or Zoo(config.run.zoo).get(config.teacher.package)
    teaching = plan_teacher(config.teacher, teacher, package, lessons, config.train)
    return replace(inputs, teacher=teacher, teaching=teaching)


def _lesson(
    config: FinetuneConfig, section: LessonSection, model: ModelConfig, setting: str
) -> tuple[Lesson, Detected]:
    """Load one task."""
    given = section.task
    if given is not None:
        detected = Detected(given.type_name(), "as the job says")
    else:
        detected = _by_head(section, model) or detect_kind(section.data, model, setting)
    kind = task_class(detected.kind)
    cache = None if config.cache is None else Path(config.cache)
    data = load_task(section.data, cache, kind.form())
    for problem in check_data(data, kind.form()).problems():
        raise InputError(f"{section.data.source}: {problem.path}: {problem.message}")
    options = {} if given is None else given.model_dump(exclude={"type"}, exclude_unset=True)
    task = task_for(detected.kind, data, section.head or head_name(data.name), model, **options)
    named = section.head if config.data is None else config.head
    if named is not None and named != task.head:
        raise InputError(
            f"head {named!r}: {detected.kind} continues the package's own head {task.head!r}. "
            "Leave head out, or name that one."
        )
    return Lesson(task, data, section.weight, section.class_weights), detected


def _by_head(section: LessonSection, model: ModelConfig) -> Detected | None:
    """Return the kind of the package's head of the same name."""
    for target in model.target:
        kind = kind_of_target(target, model) if target.name == section.head else None
        if kind is not None:
            return Detected(kind, f"the package has a head {target.name!r} for it")
    return None


def _require_fitting(inputs: FinetuneInputs) -> None:
    """Refuse tasks that one model cannot learn together.

    Raises:
        InputError: Heads of the same name, rows of several forms, or rows that it does not read.
    """
    heads = [lesson.head for lesson in inputs.lessons]
    for head in heads:
        if heads.count(head) > 1:
            raise InputError(f"two tasks have the head {head!r}. Name them with tasks.N.head.")
    forms = {form_of(lesson.data.train) for lesson in inputs.lessons}
    if len(forms) > 1:
        raise InputError(
            f"tasks of {' and of '.join(sorted(forms))} are mixed; one model reads one."
        )
    read = forms_read(inputs.model)
    if not forms <= read:
        raise InputError(
            f"{inputs.package.ref} reads {' and '.join(sorted(read))}, the rows are {forms.pop()}."
        )
    if inputs.config.train.adversarial is not None and "texts" not in forms:
        raise InputError("train.adversarial moves the word table, and the rows are not texts.")
    for lesson in inputs.lessons:
        trained_head(inputs.model, lesson, inputs.renewed, inputs.config.train)
        if lesson.task.template is not None:
            completed(inputs.package.path, lesson.task.target(HeadOptions()))
            one = lesson.data.train.take(np.arange(1))
            lesson.task.samples(one, TextProcessor.load(inputs.package.path), inputs.max_length)


def lessons_of(job: FinetuneJob) -> list[Lesson]:
    """Read the rows of the planned lessons of a job again.

    Raises:
        IntegrityError: The labels are not what the driver found: the data has changed.
    """
    model, cache = read_config(Path(job.package)), job.config.cache
    found = []
    for each in job.lessons:
        task = build_task(each.task)
        if task.writes_text:
            task.own_head = next(head for head in model.target if head.name == task.head)
        data = load_task(each.data, None if cache is None else Path(cache), task.form())
        if data.label_names != task.labels:
            raise IntegrityError(
                f"{each.data.source} has the labels {list(data.label_names)} now, and had "
                f"{list(task.labels)} when the run began. Start a run with another name."
            )
        found.append(Lesson(task, data, each.weight, each.class_weights))
    return found


def method_of(job: FinetuneJob, device: torch.device) -> Method:
    """Return what a job learns beside the labels; its teacher is loaded onto the device."""
    teacher = None if job.teacher is None else Teacher(job.teacher, device)
    return Method(teacher, job.config.train.adversarial)


def _absolute(spec: DatasetSpec) -> DatasetSpec:
    """Return a spec that means the same in every folder."""
    if spec.scheme != "files":
        return spec
    place = Path(spec.location).expanduser().absolute()
    return spec.model_copy(update={"source": f"files:{place}"})


def job_of(inputs: FinetuneInputs, run_dir: Path, rate: Rate) -> FinetuneJob:
    """Return what the workers get."""
    return FinetuneJob(
        config=inputs.config,
        lessons=inputs.planned,
        package=str(Path(inputs.package.path).resolve()),
        kept=inputs.kept,
        renewed=inputs.renewed,
        teacher=inputs.teaching,
        learning_rate=rate.value,
        reason=rate.reason,
        run_dir=str(run_dir.resolve()),
    )
