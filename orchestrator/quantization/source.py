"""What a quantization job reads: a package, labelled texts, and how they fit together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.quantization.accuracy import Encoded, encode
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.plans import Plan

if TYPE_CHECKING:
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.quantization.emission.model import Emission
    from orchestrator.zoo import Package

State = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """A float model as plain values, ready to be sent to another process."""

    config: dict[str, Any]
    state: State
    ranges: dict[str, Range] = field(default_factory=dict)
    """Calibrated input range of each unit."""

    def emit(self, plan: Plan | None = None, *, observe: bool = False) -> "Emission":
        """Write the model as an ONNX graph under a plan."""
        from orchestrator.quantization.emission.model import emit

        return emit(self.model_config, self.state, plan, self.ranges, observe=observe)

    @property
    def model_config(self) -> ModelConfig:
        """The model's config."""
        return ModelConfig.model_validate(self.config)


@dataclass(frozen=True, slots=True)
class Texts:
    """Encoded rows: to calibrate on, to choose by, and to confirm on."""

    calibration: Encoded
    validation: Encoded
    test: Encoded


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a job reads, resolved before any cluster work starts."""

    package: "Package"
    source: Source
    target: str
    limit: int
    emission: "Emission"
    texts: Texts
    probe: list[str]
    processor: "TextProcessor"


def read_source(folder: Path) -> Source:
    """Read config and parameters of a package; numbers of any format as fp32.

    Raises:
        IntegrityError: if a file is missing or damaged.
    """
    from orchestrator.modeling.package import read_config, read_state

    config = read_config(folder)
    state = {name: tensor.numpy() for name, tensor in read_state(folder).items()}
    return Source(config.model_dump(mode="json"), state)


def choose_target(config: ModelConfig, wanted: str | None) -> ClsConfig:
    """Return the classification target whose accuracy is to be kept.

    Raises:
        InputError: if there is none of that name, or several and no name was given.
    """
    heads = {target.name: target for target in config.target if isinstance(target, ClsConfig)}
    if not heads:
        kinds = ", ".join(target.type_name() for target in config.target) or "none"
        raise InputError(
            f"the package has no classification target (targets: {kinds}). Fine-tune it first, for "
            "example with `orchestrator select`"
        )
    if wanted is None and len(heads) == 1:
        return next(iter(heads.values()))
    if wanted not in heads:
        raise InputError(
            f"target: {wanted!r}; the package has {', '.join(heads)}. Name one of them"
        )
    return heads[wanted]


def check_labels(target: ClsConfig, task: TaskData, stored: Mapping[str, Any] | None) -> None:
    """Make sure that the data's classes are those the head was trained on, in their order.

    Raises:
        InputError: if they differ, or the data are images.
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
    """Return the longest input in tokens: what is asked for, else what the package was made for.

    Raises:
        InputError: if the model has fewer positions.
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


def encode_task(
    task: TaskData, processor: "TextProcessor", config: QuantizeConfig, limit: int
) -> Texts:
    """Tokenize the rows a job needs: train to calibrate, validation to choose, test to confirm."""
    return Texts(
        calibration=encode_rows(task.train, processor, config.calibration_rows, config, limit),
        validation=encode_rows(task.validation, processor, config.evaluation_rows, config, limit),
        test=encode_rows(task.test, processor, config.evaluation_rows, config, limit),
    )


def encode_rows(
    rows: Rows, processor: "TextProcessor", count: int, config: QuantizeConfig, limit: int
) -> Encoded:
    """Tokenize up to ``count`` rows, chosen by the job's seed, into batches of similar length."""
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(rows))[:count])
    rows = rows.take(chosen)
    lengths = np.asarray([len(text) for text in rows.texts])
    order = np.argsort(lengths, kind="stable")
    batches = []
    for start in range(0, len(order), config.batch_size):
        index = order[start : start + config.batch_size]
        texts = [rows.texts[i] for i in index]
        pairs = None if rows.pairs is None else [rows.pairs[i] for i in index]
        batches.append(processor.arrays(texts, pairs, limit))
    return encode(batches, order, rows.labels)
