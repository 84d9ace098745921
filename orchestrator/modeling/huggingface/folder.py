"""Folders that transformers writes: config and weights are compared before tensors are read."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Table, to_theirs
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.tensor_files import Fetch, TensorReader, skeletons, weight_files

CONFIG = "config.json"
OLD_NAMES = (
    (re.compile(r"\bgamma$"), "weight"),
    (re.compile(r"\bbeta$"), "bias"),
    (re.compile(r"\bweight_g$"), "parametrizations.weight.original0"),
    (re.compile(r"\bweight_v$"), "parametrizations.weight.original1"),
)
"""Names in older files → today's: norms in those made from TensorFlow checkpoints, and kernels that
are stored as length and direction (wav2vec 2.0)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint of transformers, understood but not yet read.

    Attributes:
        folder: Where it is.
        architecture: Which class it is.
        raw: Its config as it is in the file.
        values: Its config, completed with that class's defaults.
        config: The same model in our terms.
    """

    folder: Path
    architecture: Architecture
    raw: JsonObject
    values: Values
    config: ModelConfig

    @property
    def table(self) -> Table:
        """Table of tensor names, theirs to ours."""
        return self.architecture.table(self.config)


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of a checkpoint, compared with what its architecture has.

    Attributes:
        layout: Our names → shape and element type, as tensors on the meta device.
        files: Name in the files → which file.
        stored: Name in the table → name in the files, where they differ.
        left_out: Names in the files that are not read.
        computed: Names in the table → values that the files lack and the class makes itself.
    """

    layout: dict[str, Tensor]
    files: dict[str, Path]
    stored: dict[str, str]
    left_out: tuple[str, ...]
    computed: dict[str, Tensor]

    def fetch(self) -> Fetch:
        """Return a function that reads one tensor of theirs."""
        read, made = TensorReader(self.files), self.computed
        return lambda name: made[name] if name in made else read(self.stored.get(name, name))


def open_source(folder: Path) -> Source:
    """Read the config of a checkpoint.

    Raises:
        InputError: There is no config, or its architecture or an option is not supported.
    """
    path = folder / CONFIG
    raw = _read_config(path)
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(
            f"{path} does not say which class it is. Add `architectures`, for example "
            '`"architectures": ["BertForMaskedLM"]`.'
        )
    architecture = find_architecture(names[0])
    values = complete_values(architecture, raw, folder)
    return Source(folder, architecture, raw, values, architecture.read(values, str(path)))


def complete_values(architecture: Architecture, raw: JsonObject, where: Path) -> Values:
    """Return a config with the defaults of its class filled in.

    Raises:
        InputError: Transformers refuses it.
    """
    from transformers import CONFIG_MAPPING

    own = {key: value for key, value in raw.items() if key not in ("model_type", "auto_map")}
    try:
        return Values(CONFIG_MAPPING[architecture.model_type].from_dict(own).to_dict())
    except Exception as error:  # validators of many classes, each with its own type
        raise InputError(f"{where / CONFIG}: transformers refuses it: {error}") from error


def _read_config(path: Path) -> JsonObject:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give a checkpoint's folder.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a mapping. Give a checkpoint's folder.")
    return raw


def compare(source: Source, leave_out: Sequence[str] = ()) -> Contents:
    """Compare names and shapes of a checkpoint with what its architecture has.

    Args:
        source: The checkpoint.
        leave_out: Patterns of names that need not be read although they are in the files.

    Raises:
        InputError: There are no safetensors.
        IntegrityError: Tensors are missing, unexpected or mis-shaped; all are listed.
    """
    files = weight_files(source.folder)
    wanted = expected_shapes(source)
    stored = {modern(name, wanted): name for name in files}
    found = dict(zip(stored, skeletons(files).values(), strict=True))
    repeated = source.architecture.repeated
    bare = [rest for rest in (name.partition(".")[2] for name in repeated) if "." in rest]
    patterns = (*repeated, *bare, *leave_out)
    extra = [name for name in found if name not in wanted]
    dropped = {name for name in extra if any(fnmatch(name, pattern) for pattern in patterns)}
    read = {name: tensor for name, tensor in found.items() if name not in dropped}
    made = source.architecture.computed(source.config)
    made = {name: tensor for name, tensor in made.items() if name not in read}
    read |= {name: tensor.to("meta") for name, tensor in made.items()}
    require_same(wanted, read, f"{source.folder}, read as {source.architecture.name},")
    layout: dict[str, Tensor] = {}
    for row in source.table:
        layout.update(row.to_ours(read.__getitem__))
    renamed = {new: old for new, old in stored.items() if new != old}
    return Contents(layout, files, renamed, tuple(sorted(dropped)), made)


def modern(name: str, wanted: Mapping[str, torch.Size]) -> str:
    """Return the name that a table uses for a tensor of an older file.

    Older files have other names (``OLD_NAMES``), and files of a model without head lack the name of
    the body in front (``h.0.ln_1.weight`` for ``transformer.h.0.ln_1.weight``).
    """
    for old, new in OLD_NAMES:
        name = old.sub(new, name)
    if name in wanted:
        return name
    fronts = {each.partition(".")[0] for each in wanted}
    longer = [f"{front}.{name}" for front in sorted(fronts) if f"{front}.{name}" in wanted]
    return longer[0] if len(longer) == 1 else name


def expected_shapes(source: Source) -> dict[str, torch.Size]:
    """Return the shape of each tensor that their file must hold."""
    skeleton = build_on_meta(source.config)
    tied = skeleton.tied_names()
    state = {name: t for name, t in skeleton.state_dict().items() if name not in tied}
    return {name: tensor.shape for name, tensor in to_theirs(source.table, state).items()}


def require_same(
    expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], what: str
) -> None:
    """Refuse a difference in names or shapes.

    Raises:
        IntegrityError: Lists every missing, unexpected and mis-shaped tensor.
    """
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    lists = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "mis-shaped": shapes,
    }
    lines = [f"  {kind}: {', '.join(names)}" for kind, names in lists.items() if names]
    if lists["unexpected"]:
        lines.append("  --leave-out PATTERN names tensors that need not be read.")
    if lines:
        raise IntegrityError(
            "\n".join([f"{what} does not hold the tensors of its architecture:", *lines])
        )


def converted(source: Source, contents: Contents) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's tensors under our names and in our layout, one row at a time."""
    fetch = contents.fetch()
    for row in source.table:
        yield from row.to_ours(fetch).items()
