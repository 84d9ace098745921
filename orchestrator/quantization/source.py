"""The float model of a job: its parameters, its classification target, its input limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.arrays import AnyArray
from orchestrator.data.rows.rows import TaskData
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.plans import Plan

if TYPE_CHECKING:
    from orchestrator.quantization.emission.model import Emission
    from orchestrator.zoo import Package


@dataclass(frozen=True, slots=True)
class Source:
    """A float model as plain values, ready to be sent to another process."""

    config: dict[str, Any]
    """Dump of the model's config: JSON values."""
    state: dict[str, AnyArray]
    """Parameters by name."""
    ranges: dict[str, Range] = field(default_factory=dict)
    """Calibrated input range of each unit."""
    statement: SentenceEmbedding | None = None
    """Statement of the package about embeddings; its layers' parameters are in ``state``."""

    def emit(self, plan: Plan | None = None, *, observe: bool = False) -> "Emission":
        """Write the model as an ONNX graph under a plan."""
        from orchestrator.quantization.emission.model import emit

        return emit(
            self.model_config,
            self.state,
            plan,
            self.ranges,
            observe=observe,
            statement=self.statement,
        )

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
    from orchestrator.quantization.emission.vectors import SENTENCE

    config, embedder = read_config(folder), SentenceEmbedder.load(folder)
    state = {name: tensor.numpy() for name, tensor in read_state(folder).items()}
    if embedder is None:
        return Source(config.model_dump(mode="json"), state)
    layers = embedder.state_dict()
    state |= {f"{SENTENCE}{name}": tensor.numpy() for name, tensor in layers.items()}
    return Source(config.model_dump(mode="json"), state, statement=embedder.statement)


def choose_target(config: ModelConfig, wanted: str | None, default: str | None = None) -> ClsConfig:
    """Return the classification target whose accuracy the goal bounds.

    Args:
        config: the model.
        wanted: the target that the job names, if it does.
        default: the target that the package was made for, if it says so.

    Raises:
        InputError: If there is no target of that name, or there are several and no name was given.
    """
    heads = {target.name: target for target in config.target if isinstance(target, ClsConfig)}
    if not heads:
        kinds = ", ".join(target.type_name() for target in config.target) or "none"
        raise InputError(
            f"the package has no classification target (targets: {kinds}). Fine-tune it first, for "
            "example with `orchestrator select`"
        )
    if wanted is None and default in heads:
        return heads[default]
    if wanted is None and len(heads) == 1:
        return next(iter(heads.values()))
    if wanted not in heads:
        raise InputError(
            f"target: {wanted!r}; the package has {', '.join(heads)}. Name one of them"
        )
    return heads[wanted]


def check_labels(
    target: ClsConfig, task: TaskData, stored: Mapping[str, Sequence[str]] | None
) -> None:
    """Require that the data have the classes that the head was trained on, in the same order.

    Args:
        target: The classification head.
        task: The labelled data.
        stored: Class names by target, as the package's manifest has them.

    Raises:
        InputError: If the classes differ, or the data are images.
    """
    if task.train.images is not None:
        raise InputError(f"data: {task.name} holds images; packages of text models read text")
    names = (stored or {}).get(target.name)
    if names is not None and list(names) != list(task.label_names):
        raise InputError(
            f"data: {task.name} has the classes {list(task.label_names)}; target {target.name!r} "
            f"was trained on {list(names)}. Give the data set it was trained on"
        )
    if len(task.label_names) != target.num_labels:
        raise InputError(
            f"data: {task.name} has {len(task.label_names)} classes, target {target.name!r} has "
            f"{target.num_labels}. Give the data set it was trained on"
        )


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
