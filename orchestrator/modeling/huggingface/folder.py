"""Folders that transformers writes: config and weights are compared before tensors are read."""

import copy
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.errors import ConfigError, InputError, IntegrityError
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Repeat, Table, to_theirs
from orchestrator.modeling.huggingface.classes import architectures, find_architecture
from orchestrator.modeling.huggingface.comparison import require_repeats
from orchestrator.modeling.huggingface.values import (
    OUTPUT_STORED,
    POOLER_STORED,
    JsonObject,
    Values,
)
from orchestrator.modeling.tensor_files import Fetch, TensorReader, skeletons, weight_files

CONFIG, ADAPTER = "config.json", "adapter_config.json"
EMBEDDER = "modules.json"
"""Stands in folders of sentence-transformers."""
OUTPUT, POOLER = "lm_head.weight", ".pooler."
"""Name of an output layer over words, and part of the names of a pooler."""
OLD_NAMES = (
    (re.compile(r"^new\."), "gte."),
    (re.compile(r"\bgamma$"), "weight"),
    (re.compile(r"\bbeta$"), "bias"),
    (re.compile(r"\bweight_g$"), "parametrizations.weight.original0"),
    (re.compile(r"\bweight_v$"), "parametrizations.weight.original1"),
)
"""Names in older files → today's: GTE's body, norms in files made from TensorFlow, and kernels that
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
        return self.architecture.rows(self.config, self.raw)


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of a checkpoint, compared with what its architecture has.

    Attributes:
        layout: Our names → shape and element type, as tensors on the meta device.
        files: Name in the files → which file.
        stored: Name in the table → name in the files, where they differ.
        left_out: Names in the files that are not read.
        other_heads: Those of them that belong to other heads of the family.
        computed: Names in the table → values that the files lack and the class makes itself.
    """

    layout: dict[str, Tensor]
    files: dict[str, Path]
    stored: dict[str, str]
    left_out: tuple[str, ...]
    other_heads: tuple[str, ...]
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
    if (folder / ADAPTER).is_file() and not path.is_file():
        raise InputError(
            f"{folder} is an adapter of peft. Import it into the package that it was trained on: "
            "--onto PACKAGE."
        )
    raw = _read_config(path)
    files = weight_files(folder)
    architecture = _class_of(path, raw, files)
    if raw.get("quantization_config") is not None:
        raise InputError(
            f"{path}: quantization_config: quantized checkpoints are not read. Give the float "
            "checkpoint that it was made from; a package is quantized by `orchestrator quantize`."
        )
    values = complete_values(architecture, raw, folder, files)
    return Source(folder, architecture, raw, values, architecture.read(values, str(path)))


def _class_of(path: Path, raw: JsonObject, stored: Collection[str]) -> Architecture:
    """Return the class of a checkpoint.

    Embedders of sentence-transformers are the body, whatever class their config still names from
    before: where the names of the tensors lack the body's, its class wrote them.

    Args:
        path: The config's file.
        raw: The config.
        stored: Names of the tensors.

    Raises:
        InputError: The config does not name it, or a class that is not supported.
    """
    of_type = [a for a in architectures().values() if a.model_type == raw.get("model_type")]
    names = raw.get("architectures") or [each.name for each in of_type if each.unnamed]
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(
            f"{path} does not say which class it is. Add `architectures`, for example "
            '`"architectures": ["BertForMaskedLM"]`.'
        )
    if (path.parent / EMBEDDER).is_file() and stored:
        bodies = [each for each in of_type if each.front and each.name != names[0]]
        if bodies and not any(name.startswith(f"{bodies[0].front}.") for name in stored):
            return bodies[0]
    return find_architecture(names[0])


def complete_values(
    architecture: Architecture, raw: JsonObject, where: Path, stored: Collection[str]
) -> Values:
    """Return a config with the defaults of its class filled in.

    Args:
        architecture: The class.
        raw: The config in the file; it is not changed.
        where: Folder of the file, for messages.
        stored: Names of the tensors in the file.

    Raises:
        InputError: Transformers refuses it.
    """
    from transformers import CONFIG_MAPPING

    # a copy: their classes write into nested sections (rope_scaling)
    own = copy.deepcopy({k: v for k, v in raw.items() if k not in ("model_type", "auto_map")})
    try:
        complete = CONFIG_MAPPING[architecture.model_type].from_dict(own).to_dict()
        pooler = any(POOLER in f".{name}" for name in stored)
        return Values(complete | {OUTPUT_STORED: OUTPUT in stored, POOLER_STORED: pooler})
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
    stored = {modern(name, wanted, source.architecture.front): name for name in files}
    found = dict(zip(stored, skeletons(files).values(), strict=True))
    extra = found.keys() - wanted.keys()
    dropped = {name for name in extra if any(fnmatch(name, pattern) for pattern in leave_out)}
    repeats = _repeats(source.architecture, extra - dropped)
    for name in sorted(repeats):
        of = repeats[name].of
        if of in wanted and of not in found:
            found[of], stored[of] = found.pop(name), stored.pop(name)
            del repeats[name]
    spare = _of_other_heads(source, extra - dropped - repeats.keys(), wanted)
    dropped |= {*repeats, *spare}
    read = {name: tensor for name, tensor in found.items() if name not in dropped}
    made = source.architecture.computed(source.config)
    made = {name: tensor for name, tensor in made.items() if name not in read}
    read |= {name: tensor.to("meta") for name, tensor in made.items()}
    require_same(wanted, read, f"{source.folder}, read as {source.architecture.name},")
    layout: dict[str, Tensor] = {}
    for row in source.table:
        layout.update(row.to_ours(read.__getitem__))
    renamed = {new: old for new, old in stored.items() if new != old}
    contents = Contents(layout, files, renamed, tuple(sorted(dropped)), spare, made)
    require_repeats(source, repeats, contents.fetch())
    return contents


def _repeats(architecture: Architecture, names: Iterable[str]) -> dict[str, Repeat]:
    """Return which names are those of repeated tensors, and what they repeat."""
    pairs = ((name, repeat) for name in names for repeat in architecture.repeated)
    return {name: repeat for name, repeat in pairs if repeat.matches(name)}


def _of_other_heads(
    source: Source, names: Iterable[str], wanted: Mapping[str, torch.Size]
) -> tuple[str, ...]:
    """Return the names that belong to heads of other classes of the family.

    Published files often hold all heads of pre-training (BERT's pooler and next sentence
    prediction) and name the class of one.
    """
    fronts = {each.partition(".")[0] for each in wanted}
    known: set[str] = set()
    repeated: list[Repeat] = []
    for each in architectures().values():
        if each.model_type == source.architecture.model_type:
            try:
                table = each.rows(each.read(source.values, str(source.folder)), source.raw)
            except (ConfigError, InputError):
                continue  # a class that this config cannot be of
            known.update(name for row in table for name in row.theirs)
            repeated += each.repeated

    def belongs(name: str) -> bool:
        front, _, rest = name.partition(".")
        return (
            name in known
            or (front in fronts and rest in known)
            or any(repeat.matches(name) for repeat in repeated)
        )

    return tuple(sorted(name for name in names if belongs(name)))


def modern(name: str, wanted: Mapping[str, torch.Size], front: str = "") -> str:
    """Return the name that a table uses for a tensor of an older file.

    Older files have other names (``OLD_NAMES``), and files of a model without head lack the name of
    the body in front (``h.0.ln_1.weight`` for ``transformer.h.0.ln_1.weight``), or have it
    (``front``) where the class of the body alone does not.
    """
    for old, new in OLD_NAMES:
        name = old.sub(new, name)
    bare = name.removeprefix(f"{front}.")
    if name in wanted or bare in wanted:
        return name if name in wanted else bare
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
