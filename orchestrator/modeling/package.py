"""A model in a folder: ``config.json`` and its weights, read and written strictly.

Weights are ``model.safetensors``, or shards with an index as in Hugging Face's layout.
"""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.builder import build_on_meta, build_target
from orchestrator.modeling.config import (
    CONFIG_FILE,
    MODEL_TYPE,
    WEIGHTS,
    ModelConfig,
    has_weights,
    read_config,
)
from orchestrator.modeling.initialization import Held, Values
from orchestrator.modeling.model import Model
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.tensor_files import (
    SHARD_BYTES,
    TensorReader,
    skeletons,
    weight_files,
    write_tensors,
)

__all__ = [
    "StoredValues",
    "has_weights",
    "load_model",
    "open_model",
    "read_config",
    "read_state",
    "stored_bytes",
    "stream_model",
    "write_config",
    "write_model",
]

State = Mapping[str, Tensor]

MAPPED_BYTES = 2**24
"""Bytes that are read before a file is mapped again; reading its header takes a millisecond."""


def write_model(
    folder: Path,
    model_or_state: Model | State,
    config: ModelConfig,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``config.json`` and the weights; a tied parameter is stored once.

    Args:
        folder: An existing folder.
        model_or_state: A model, or its full state by name (tied names may all be there or only one
            of them).
        config: The model's config.
        shard_bytes: Larger models are written as several files.

    Raises:
        IntegrityError: The state is not that of ``config``: missing, unexpected or mis-shaped
            names.
    """
    state = model_or_state.state_dict() if isinstance(model_or_state, Model) else model_or_state
    skeleton = build_on_meta(config)
    tied = skeleton.tied_names()
    stored = {tied.get(name, name): tensor for name, tensor in state.items()}
    _require_same_keys(stored, _expected(skeleton, tied), "the state to write")
    write_tensors(folder, stored, stored.items(), shard_bytes)
    write_config(folder, config)


def stream_model(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    config: ModelConfig,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``config.json`` and weights that come one by one; one at a time is in memory.

    Shapes and element types are the config's, so the files' headers are written first. A tensor of
    another floating-point type is converted.

    Args:
        folder: An existing folder.
        tensors: Full parameters and persistent buffers by name, each once (of tied names any).
        config: The model's config.
        shard_bytes: Larger models are written as several files.

    Raises:
        IntegrityError: The tensors are not those of ``config``: missing, unexpected or mis-shaped.
    """
    skeleton = build_on_meta(config)
    tied = skeleton.tied_names()
    state = skeleton.state_dict()
    layout = {name: tensor for name, tensor in state.items() if name not in tied}
    expected = {name: tensor.shape for name, tensor in layout.items()}
    seen: dict[str, Tensor] = {}

    def checked() -> Iterator[tuple[str, Tensor]]:
        for any_name, tensor in tensors:
            name = tied.get(any_name, any_name)
            if name in seen:
                continue
            seen[name] = torch.empty(tensor.shape, device="meta")
            if expected.get(name) == tensor.shape:
                yield name, tensor.to(layout[name].dtype)
        _require_same_keys(seen, expected, "the state to write")

    write_tensors(folder, layout, checked(), shard_bytes)
    write_config(folder, config)


def read_state(folder: Path, dtype: torch.dtype | None = torch.float32) -> dict[str, Tensor]:
    """Read a package's weights, from one file or several, without building the model.

    Args:
        folder: What ``write_model`` wrote.
        dtype: Type of floating-point tensors, whatever the files hold; null: as stored.

    Returns:
        Every stored tensor by name; of tied names, the one that is stored.

    Raises:
        IntegrityError: A file is missing or cannot be read.
    """
    files = _weight_files(folder)
    fetch = TensorReader(files)
    return {name: _placed(fetch(name), "cpu", dtype) for name in files}


def stored_bytes(folder: Path) -> int:
    """Return the size of a package's weights in its files."""
    return sum(path.stat().st_size for path in set(_weight_files(folder).values()))


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write ``config.json``."""
    header = {"model_type": MODEL_TYPE}
    text = json.dumps(header | config.model_dump(mode="json"), indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load_model(
    folder: Path,
    targets: Sequence[TargetConfig] | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> Model:
    """Read a model.

    Args:
        folder: What ``write_model`` wrote.
        targets: The heads wanted instead of the stored ones. A stored head with the same config,
            weights of classes apart, is kept; the others are new, with values from torch's global
            generator. Everything below the heads must be stored.
        device: Where the parameters go.
        dtype: Type of the floating-point parameters, whatever the files hold; null: as stored.

    Raises:
        IntegrityError: A file cannot be read, or names are missing, unexpected or mis-shaped.
    """
    stored_config = read_config(folder)
    config = stored_config if targets is None else stored_config.with_targets(targets)
    files = _stored_files(folder, stored_config)
    model = build_on_meta(config)
    new = _new_heads(stored_config, config)
    for target in new:
        model.targets[target.name] = build_target(target, config).to(device, dtype)
    fetch = TensorReader(files)
    wanted = _wanted(model, files, new)
    state = {name: _placed(fetch(name), device, dtype) for name in wanted}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model


def open_model(folder: Path, targets: Sequence[TargetConfig]) -> tuple[Model, Values]:
    """Return a model as `load_model` does, without memory, and what reads its parameters by parts.

    Parameters of new heads have memory: they have the values that `load_model` gives them. Buffers
    are filled.

    Args:
        folder: What ``write_model`` wrote.
        targets: The heads wanted instead of the stored ones.

    Raises:
        IntegrityError: A file cannot be read, or names are missing, unexpected or mis-shaped.
    """
    stored = read_config(folder)
    model = build_on_meta(stored.with_targets(targets))
    for target in _new_heads(stored, model.config):
        model.targets[target.name] = build_target(target, model.config)
    model.tie_weights()
    return model, StoredValues(folder, model, Held({}))


class StoredValues:
    """The weights of a package by name and place: a ``Values`` of ``initialization``.

    A tensor is mapped from its file, so that only the part that is asked for is read. What was read
    stays in this process's memory as long as the file is mapped: it is mapped again now and then.

    Args:
        folder: What ``write_model`` wrote.
        model: On the meta device, with the heads that are wanted; its buffers are filled.
        new: Values of the heads that are not stored, as in `load_model`.

    Raises:
        IntegrityError: A file cannot be read, or names are missing, unexpected or mis-shaped.
    """

    def __init__(self, folder: Path, model: Model, new: Values) -> None:
        stored = read_config(folder)
        files = _stored_files(folder, stored)
        self._new, self._fetch, self._mapped = new, TensorReader(files), 0
        self._stored = set(_wanted(model, files, _new_heads(stored, model.config)))
        for name, buffer in model.named_buffers():
            if name in self._stored:
                buffer.copy_(self._fetch(name))

    def fill(self, name: str, out: Tensor, start: int = 0) -> None:
        """Write elements ``start : start + len(out)`` of a flattened parameter."""
        if name not in self._stored:
            self._new.fill(name, out, start)
            return
        out.copy_(self._fetch(name).reshape(-1)[start : start + len(out)])
        self._mapped += out.nbytes
        if self._mapped > MAPPED_BYTES:
            self._fetch.release()
            self._mapped = 0


def _new_heads(stored: ModelConfig, wanted: ModelConfig) -> list[TargetConfig]:
    known = [_without_weights(target) for target in stored.target]
    return [target for target in wanted.target if _without_weights(target) not in known]


def _wanted(model: Model, files: Container[str], new: Sequence[TargetConfig]) -> list[str]:
    """Return the names that a model takes from files, new heads apart."""
    names = {target.name for target in new}
    return [name for name in model.state_dict() if name in files and _head(name) not in names]


def _without_weights(target: TargetConfig) -> TargetConfig:
    """Return a head's config without what belongs to the rows that it learns from."""
    if getattr(target, "class_weights", None) is None:
        return target
    return target.model_copy(update={"class_weights": None})


def _placed(tensor: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _head(name: str) -> str | None:
    """Name of the head a parameter belongs to, if any."""
    parts = name.split(".")
    return parts[1] if parts[0] == "targets" else None


def _expected(skeleton: Model, tied: Mapping[str, str]) -> dict[str, torch.Size]:
    state = skeleton.state_dict()
    return {name: tensor.shape for name, tensor in state.items() if name not in tied}


def _stored_files(folder: Path, config: ModelConfig) -> dict[str, Path]:
    """Return the file of each tensor, after comparing names and shapes with the config's."""
    files = _weight_files(folder)
    skeleton = build_on_meta(config)
    expected = _expected(skeleton, skeleton.tied_names())
    _require_same_keys(skeletons(files), expected, str(folder / WEIGHTS))
    return files


def _weight_files(folder: Path) -> dict[str, Path]:
    try:
        return weight_files(folder)
    except InputError as error:
        raise IntegrityError(f"{folder / WEIGHTS} cannot be read: {error}") from error


def _require_same_keys(state: State, expected: Mapping[str, torch.Size], what: str) -> None:
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} is {list(state[name].shape)}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name]
    ]
    lists = {"missing": missing, "unexpected": unexpected, "mis-shaped": shapes}
    lines = [f"  {kind}: {', '.join(names)}" for kind, names in lists.items() if names]
    if lines:
        raise IntegrityError("\n".join([f"{what} does not fit config.json:", *lines]))
