"""The contract of a task kind, and the registry of kinds.

An instance is one task of one package: a kind with its options, the names of its labels in the
order of the head's outputs, and the name of the head. It is built from what a package stores
(``TaskSpec``), and answers the same way in fine-tuning, evaluation, batch prediction, quantization
and serving.

Shapes: N rows, S tokens of a row, K labels, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Field

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.config import StrictModel
from orchestrator.config.registry import Choice, EntryConfig, Registry
from orchestrator.errors import InputError
from orchestrator.modeling.targets.configs import Pooling, TargetConfig
from orchestrator.zoo.suite import TaskSpec

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import RowProcessor
    from orchestrator.data.processors.readings import Reading
    from orchestrator.data.processors.templates import Template
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.data.rows.labels import LabelForm
    from orchestrator.data.rows.rows import Rows, TaskData
    from orchestrator.data.samples.base import SampleDataset
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.tasks.metrics import Metric


class TaskConfig(EntryConfig):
    """Options of a task kind; a subclass has ``type: Literal["<kind>"] = "<kind>"``."""


class HeadOptions(StrictModel):
    """Options of a new head, for all kinds; a kind uses those that apply to it."""

    pooling: Pooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = False
    """Put a linear layer and tanh below the output layer."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout rate before the output layer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one row; a kind has its own subclass."""

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        return asdict(self)


AnswerT = TypeVar("AnswerT", bound=Answer)
ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class Task(ABC, Generic[ConfigT, AnswerT]):
    """One task: a kind, its options, its labels, its head.

    Attributes:
        form: How the label of a row is read.
        modalities: What rows may hold: ``text``, ``pair``, ``choices``, ``image``, ``audio``.
        needs_reading: Whether ``answers`` needs a ``Reading`` of each row.
        pairs_apart: Whether the two texts of a pair are read in a sequence each.
        reads_windows: Whether a second text that is too long is read in windows, not cut.
        has_labels: Whether answers are names of labels, so that their order matters.
        writes_text: Whether answers are written token by token, so that ``Predictor`` makes them.
        target_types: Types of the heads that can answer tasks of this kind; the first is made.
        template: Text with a blank that rows are put into, of a task that classifies by words.
        own_head: Config of the package's head, of a task that continues it (``writes_text``).
        decides: Name of the metric that decides; None: the first one.
    """

    Config: ClassVar[type[TaskConfig]]
    modalities: frozenset[str] = frozenset({"text", "pair"})
    needs_reading: ClassVar[bool] = False
    pairs_apart: ClassVar[bool] = False
    reads_windows: ClassVar[bool] = False
    has_labels: ClassVar[bool] = True
    writes_text: ClassVar[bool] = False
    target_types: ClassVar[tuple[str, ...]]
    template: "Template | None" = None

    def __init__(self, config: ConfigT, labels: Sequence[str], head: str) -> None:
        self.config = config
        self.labels = tuple(labels)
        self.head = head
        self.own_head: TargetConfig | None = None
        self.decides: str | None = None

    @classmethod
    def kind(cls) -> str:
        """Name of the kind."""
        return cls.Config.type_name()

    @classmethod
    @abstractmethod
    def form(cls) -> "LabelForm":
        """Return how the label of a row is read."""

    @property
    def spec(self) -> TaskSpec:
        """The task as a package stores it."""
        options = self.config.model_dump(mode="json", exclude={"type"})
        return TaskSpec(kind=self.kind(), head=self.head, labels=self.labels, options=options)

    @classmethod
    def options_for(cls, rows: "Rows", model: "ModelConfig | None" = None) -> dict[str, object]:
        """Return the options that rows and the model ask for; by default the defaults.

        Args:
            rows: Training rows.
            model: Config of the model that is trained, or that answers.
        """
        del rows, model
        return {}

    def require_own_head(self) -> TargetConfig:
        """Return the package's head, which the task continues.

        Raises:
            InputError: The task was made without the config of a model.
        """
        if self.own_head is None:
            raise InputError(
                f"task {self.head!r}: {self.kind()} continues the package's own head "
                f"({' or '.join(self.target_types)}). Start from a package that has one "
                "(orchestrator zoo show NAME lists its heads)."
            )
        return self.own_head

    @abstractmethod
    def target(self, options: HeadOptions) -> TargetConfig:
        """Return the config of a new head for this task."""

    @abstractmethod
    def samples(
        self, rows: "Rows", processor: "RowProcessor | None", max_length: int | None
    ) -> "SampleDataset":
        """Return the training samples of rows, labels under ``labels.<head>``.

        Raises:
            InputError: The rows lack what this kind needs.
        """

    @abstractmethod
    def answers(
        self, outputs: Sequence[AnyArray], readings: "Sequence[Reading] | None" = None
    ) -> list[AnswerT]:
        """Turn the outputs of the head into answers. NumPy only.

        Args:
            outputs: Logits of each row, as the head's ``predict`` gives them without padding.
            readings: How each row was read, where ``needs_reading``.
        """

    def written(self, texts: Sequence[str]) -> list[AnswerT]:
        """Return written texts as answers, of a task that ``writes_text``.

        Raises:
            InputError: Its answers are not texts.
        """
        raise InputError(f"tasks of kind {self.kind()} do not write texts ({len(texts)} given).")

    @abstractmethod
    def metrics(self) -> "tuple[Metric, ...]":
        """Return the metrics, the primary one first."""

    @abstractmethod
    def statistics(self, rows: "Rows", answers: Sequence[AnswerT]) -> Mapping[str, FloatArray]:
        """Return statistics per row of each metric: metric name → [N, S]."""

    def adapted(self, rows: "Rows", answers: Sequence[AnswerT]) -> "Task[ConfigT, AnswerT]":
        """Return this task with what is chosen on validation rows (a threshold); by default as is.

        Args:
            rows: Validation rows, never test rows.
            answers: The trained model's answers to them.
        """
        del rows, answers
        return self

    @property
    def primary(self) -> "Metric":
        """The metric that decides."""
        found = self.metrics()
        return next((metric for metric in found if metric.name == self.decides), found[0])


SOUND_EMBEDDINGS = frozenset({"speech", "waveform"})
"""Embeddings that read recordings."""
FORMS_READ = {"image": "images", "audio": "sounds"}
"""Forms of rows in words; all others are texts."""
MODALITIES = {"image": "vision", "audio": "audio"}
"""Modalities of rows as manifests state them; all others are ``text``."""

AnyTask = Task[Any, Any]
"""A task of any kind."""

tasks: Registry[TaskConfig] = Registry("task", TaskConfig, builtin="orchestrator.tasks.kinds")
TaskKind = Annotated[TaskConfig, Choice(tasks)]
"""A task kind in a config: its name, or a mapping with ``type`` and options."""


def form_of(rows: "Rows") -> str:
    """Return the form of rows in words: ``texts``, ``images`` or ``sounds``."""
    return FORMS_READ.get(rows.modality, "texts")


def forms_read(model: "ModelConfig") -> set[str]:
    """Return the forms of rows that a model's embedding reads."""
    embedding = model.embedding
    parts = {part.type_name() for part in embedding.parts}
    if parts & SOUND_EMBEDDINGS:
        return {"sounds"}
    forms = {"texts"} if embedding.reads_words else {"images"}
    return forms | {"images"} if "dual" in parts else forms


def task_class(kind: str) -> type[AnyTask]:
    """Return the class of a kind.

    Raises:
        InputError: There is no such kind.
    """
    return tasks.component_class(kind)


def build_task(spec: TaskSpec) -> AnyTask:
    """Build a task from what a package stores.

    Raises:
        InputError: Unknown kind or options.
    """
    found = task_class(spec.kind)
    try:
        config = found.Config.model_validate({"type": spec.kind, **spec.options})
    except ValueError as error:
        raise InputError(f"the options of task {spec.head!r} are not valid: {error}") from error
    return found(config, spec.labels, spec.head)


def task_for(
    kind: str, data: "TaskData", head: str, model: "ModelConfig | None" = None, **options: object
) -> AnyTask:
    """Build the task that a data set asks for.

    Args:
        kind: Name of the kind.
        data: What is learned; its labels are the task's, its rows choose options.
        head: Name of the head; a kind that writes text continues the package's own one.
        model: Config of the model that is trained; needed by kinds that write text.
        options: Options of the kind that are not to be chosen.

    Raises:
        InputError: Unknown kind or options, rows that the kind does not read, or the model has no
            head that writes.
    """
    found = task_class(kind)
    if data.train.modality not in found.modalities:
        raise InputError(
            f"{kind} reads rows of {' or '.join(sorted(found.modalities))}; those of {data.name!r} "
            f"are of {data.train.modality}."
        )
    own = None
    if found.writes_text:
        heads = () if model is None else model.target
        own = next((each for each in heads if each.type_name() in found.target_types), None)
        head = head if own is None else own.name
    chosen = {**found.options_for(data.train, model), **options}
    labels = data.label_names if found.has_labels else ()
    task = build_task(TaskSpec(kind=kind, head=head, labels=labels, options=chosen))
    task.own_head = own
    if found.writes_text:
        task.require_own_head()
    return task


def text_processor(processor: "RowProcessor | None") -> "TextProcessor | None":
    """Return the tokenizer of a package's processors."""
    # Imported here: configs of tasks load without the processors of images and sounds.
    from orchestrator.data.processors.example_processor import ExampleProcessor

    return processor.text if isinstance(processor, ExampleProcessor) else processor


def kind_of_target(target: TargetConfig, model: "ModelConfig | None" = None) -> str | None:
    """Return the task kind that a head answers, or None for a head of pre-training alone.

    Args:
        target: Config of the head.
        model: Its model: what it reads tells apart kinds with the same head.
    """
    found = [n for n in tasks.names() if target.type_name() in task_class(n).target_types]
    if model is not None and len(found) > 1:
        reads = {part.type_name() for part in model.embedding.parts}
        sound = bool(reads & SOUND_EMBEDDINGS)
        found = [n for n in found if ("audio" in task_class(n).modalities) == sound] or found
    return found[0] if found else None
