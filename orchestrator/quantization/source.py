"""The float model of a job: its parameters, the task that counts, its input limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.arrays import AnyArray
from orchestrator.data.rows.rows import TaskData
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.kinds import (
    Channels,
    KindName,
    QuantizedWeight,
    Range,
    quantize_weight,
    stored_name,
)
from orchestrator.quantization.plans import Plan
from orchestrator.tasks.base import AnyTask, build_task

if TYPE_CHECKING:
    from orchestrator.quantization.emission.model import Emission
    from orchestrator.zoo import Package


@dataclass(frozen=True, slots=True)
class Folded:
    """Equalized parameters and quantized weights: made once, shared by all plans of a search."""

    equalized: tuple[str, ...]
    """Norms that are equalized."""
    state: dict[str, AnyArray]
    """Parameters that this changes."""
    ranges: dict[str, Range]
    """Calibrated input range of each unit."""
    weights: dict[str, QuantizedWeight]
    """Weights of units, by ``kinds.stored_name``."""


@dataclass(frozen=True, slots=True)
class Source:
    """A float model as plain values, ready to be sent to another process."""

    config: dict[str, Any]
    """Dump of the model's config: JSON values."""
    state: dict[str, AnyArray]
    """Parameters by name."""
    ranges: dict[str, Range] = field(default_factory=dict)
    """Calibrated input range of each unit."""
    channels: dict[str, Channels] = field(default_factory=dict)
    """Observed extremes of each unit's input by channel, for plans that equalize norms."""
    statement: SentenceEmbedding | None = None
    """Statement of the package about embeddings; its layers' parameters are in ``state``."""
    folded: Folded | None = None
    """Parts of the graphs of plans that are made already."""

    def emit(self, plan: Plan | None = None, *, observe: bool = False) -> "Emission":
        """Write the model as an ONNX graph under a plan."""
        from orchestrator.quantization.emission.equalization import equalize
        from orchestrator.quantization.emission.model import emit

        config, state, ranges = self.model_config, self.state, self.ranges
        norms, folded = () if plan is None else plan.equalized, self.folded
        stored = None
        if folded is not None and norms == folded.equalized:
            state, ranges, stored = {**state, **folded.state}, folded.ranges, folded.weights
        elif norms:
            state, ranges = equalize(config, state, self.channels, ranges, norms)
        return emit(
            config,
            state,
            plan,
            ranges,
            observe=observe,
            statement=self.statement,
            stored=stored,
        )

    def fold(self, kinds: Mapping[str, Sequence[KindName]], norms: tuple[str, ...]) -> "Folded":
        """Equalize norms, and quantize the weight of every unit once for each form of its kinds."""
        from orchestrator.quantization.emission.equalization import equalize

        state, ranges = self.state, self.ranges
        if norms:
            state, ranges = equalize(self.model_config, state, self.channels, ranges, norms)
        changed = {name: each for name, each in state.items() if each is not self.state.get(name)}
        weights: dict[str, QuantizedWeight] = {}
        products = replace(self, folded=Folded(norms, changed, ranges, {})).emit(
            Plan({}, norms), observe=True
        )
        for unit, product in products.products.items():
            for kind in kinds.get(unit, ()):
                name = stored_name(unit, kind)
                if name not in weights:
                    weights[name] = quantize_weight(product.weight, kind)
        return Folded(norms, changed, ranges, weights)

    @property
    def model_config(self) -> ModelConfig:
        """The model's config."""
        return ModelConfig.model_validate(self.config)


def read_source(folder: Path) -> Source:
    """Read config and parameters of a package; parameters of any format as fp32.

    Raises:
        IntegrityError: If a file is missing or damaged.
    """
    from orchestrator.modeling.package import read_config, read_state
    from orchestrator.modeling.sentence.embedder import SentenceEmbedder
    from orchestrator.quantization.emission.outputs.vectors import SENTENCE

    config, embedder = read_config(folder), SentenceEmbedder.load(folder)
    state = {name: tensor.numpy() for name, tensor in read_state(folder).items()}
    if embedder is None:
        return Source(config.model_dump(mode="json"), state)
    layers = embedder.state_dict()
    state |= {f"{SENTENCE}{name}": tensor.numpy() for name, tensor in layers.items()}
    return Source(config.model_dump(mode="json"), state, statement=embedder.statement)


def choose_task(
    tasks: Mapping[str, AnyTask],
    graph: Sequence[str],
    wanted: str | None,
    default: str | None = None,
) -> AnyTask | None:
    """Return the task whose primary metric the goal bounds; None: the package answers none.

    Args:
        tasks: Tasks of the package by the name of their head.
        graph: Heads that its graph answers with.
        wanted: the head that the job names, if it does.
        default: the head that the package was made for, if it says so.

    Raises:
        InputError: If there is no target of that name, or there are several and no name was given.
    """
    heads = {name: tasks[name] for name in graph if name in tasks}
    if wanted is None and not heads:
        return None
    if wanted is None and default in heads:
        return heads[default]
    if wanted is None and len(heads) == 1:
        return next(iter(heads.values()))
    if wanted not in heads:
        raise InputError(
            f"target: {wanted!r}; the package has {', '.join(heads) or 'none'}. Name one of them"
        )
    return heads[wanted]


def check_labels(
    task: AnyTask, data: TaskData, stored: Mapping[str, Sequence[str]] | None
) -> AnyTask:
    """Require that the data have the labels that the head was trained on, in the same order.

    Args:
        task: The task of the head.
        data: The labelled data.
        stored: Label names by target, as the package's manifest has them.

    Returns:
        The task, with the names of the data where the package has none.

    Raises:
        InputError: If the labels differ, or the rows are of a form that the task does not read.
    """
    if data.train.modality not in task.modalities:
        raise InputError(
            f"data: {data.name} holds rows of {data.train.modality}; target {task.head!r} reads "
            f"{' or '.join(sorted(task.modalities))}"
        )
    if not task.has_labels:
        return task
    names = (stored or {}).get(task.head)
    if names is not None and list(names) != list(data.label_names):
        raise InputError(
            f"data: {data.name} has the classes {list(data.label_names)}; target {task.head!r} "
            f"was trained on {list(names)}. Give the data set it was trained on"
        )
    if len(data.label_names) != len(task.labels):
        raise InputError(
            f"data: {data.name} has {len(data.label_names)} classes, target {task.head!r} has "
            f"{len(task.labels)}. Give the data set it was trained on"
        )
    return build_task(task.spec.model_copy(update={"labels": data.label_names}))


def input_limit(config: QuantizeConfig, model: ModelConfig, package: "Package | None") -> int:
    """Return the longest input in tokens: the configured one, else that of the package.

    Raises:
        InputError: If the model has fewer positions.
    """
    positions = model.max_position_embeddings
    if config.max_length is not None:
        if config.max_length > positions:
            raise InputError(
                f"max_length: {config.max_length}; the model has {positions} positions. "
                f"Use {positions} or less"
            )
        return config.max_length
    task = None if package is None else package.manifest.task
    stored = task.max_length if task is not None else None
    return min(positions, stored or positions)
