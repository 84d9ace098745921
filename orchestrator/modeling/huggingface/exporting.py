"""Export of a package to a folder that transformers opens; checked before it appears."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace as replace_fields
from pathlib import Path

from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Table,
    layouts,
    require_same,
    to_theirs,
)
from orchestrator.modeling.huggingface.checking import Report, check
from orchestrator.modeling.huggingface.classes import (
    architecture_of,
    find_architecture,
    padding_of,
)
from orchestrator.modeling.huggingface.folder import CONFIG, OUTPUT, POOLER, complete_values
from orchestrator.modeling.huggingface.importing import original_of
from orchestrator.modeling.huggingface.renumbering import write_with_padding
from orchestrator.modeling.huggingface.sentence_check import check_vectors
from orchestrator.modeling.huggingface.sentences import write_sentences
from orchestrator.modeling.huggingface.sources import PROCESSOR_FILES, copy_processor
from orchestrator.modeling.huggingface.tokenization.completion import TOKENIZER, TRANSLATION
from orchestrator.modeling.huggingface.values import JsonObject, label_values
from orchestrator.modeling.package import read_config
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.modeling.tensor_files import (
    SHARD_BYTES,
    Fetch,
    TensorReader,
    skeletons,
    weight_files,
    write_tensors,
)
from orchestrator.storage.atomic import temporary_sibling
from orchestrator.storage.json_files import read_json
from orchestrator.storage.operations import replace
from orchestrator.zoo.package import Package


def named_after_types(config: ModelConfig) -> tuple[ModelConfig, Callable[[str], str]]:
    """Return a config whose heads are called as tables call them, and how parameters are renamed.

    A head may have any name (``topic``); tables know it by its type (``cls``).
    """
    types = {each.name: each.type_name() for each in config.target}
    heads = [each.model_copy(update={"name": types[each.name]}) for each in config.target]

    def rename(name: str) -> str:
        slot, _, rest = name.partition(".")
        head, _, own = rest.partition(".")
        return f"targets.{types[head]}.{own}" if slot == "targets" else name

    return config.with_targets(heads), rename


def values_of(architecture: Architecture, config: ModelConfig) -> JsonObject:
    """Return the content of their ``config.json`` for a model of ours."""
    return {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        **architecture.their_config(config),
    }


def write_values(folder: Path, values: JsonObject) -> None:
    """Write their ``config.json``."""
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_weights(
    folder: Path,
    table: Table,
    layout: Mapping[str, Tensor],
    fetch: Fetch,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write our tensors under their names, one row of the table in memory at a time.

    Args:
        folder: An existing folder.
        table: Which tensor of theirs is which of ours.
        layout: Our names → shape and element type (meta device).
        fetch: Reads one of our tensors.
        shard_bytes: Larger models are written as several files.

    Raises:
        IntegrityError: The table and the layout do not name the same tensors.
    """
    require_same({name for row in table for name in row.ours}, set(layout))
    skeletons = {name: tensor.to("meta") for name, tensor in layout.items()}
    theirs = to_theirs(table, skeletons)
    write_tensors(folder, theirs, _renamed(table, fetch), shard_bytes)


def _renamed(table: Table, fetch: Fetch) -> Iterator[tuple[str, Tensor]]:
    for row in table:
        yield from row.to_theirs(fetch).items()


BEGIN, END = ("bos_token", "cls_token"), ("eos_token", "sep_token")
"""Keys of the tokens at the ends of a text in ``tokenizer_config.json``, the first that is there.
"""
ENDS_OF_ENCODERS = ("modernbert",)
"""Families whose encoders' configs name both ends of a text."""
BEGIN_WITH_END = ("bart", "speech_to_text")
"""Families whose decoders are started with the token that ends a text."""
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""Inputs of a model with segments, by the names of transformers."""
OURS = "preprocessor_config.json"
"""Holds our settings of a text processor, or those of an imported image or audio processor."""


def export_package(package: Package, to: Path, shard_bytes: int = SHARD_BYTES) -> Report:
    """Write a package as a folder that ``from_pretrained`` opens.

    Args:
        package: An imported one, or one made here whose model has a counterpart in transformers.
        to: A folder that does not exist yet, or is empty.
        shard_bytes: Larger models are written as several files.

    Returns:
        The numeric check of what was written.

    Raises:
        InputError: The model has no counterpart, or the folder is not empty.
        IntegrityError: The package is damaged, or the numeric check failed. Nothing was written.
    """
    if package.kind == "quantized":
        raise InputError(
            f"{package.ref} is quantized, which transformers does not open. Export what it was "
            f"made from: {', '.join(parent.ref for parent in package.manifest.parents)}; or export "
            "its graph with --format onnx."
        )
    labels = package.manifest.task.labels if package.manifest.task else {}
    with appearing(to) as staged:
        report = write_export(package.path, labels, staged, shard_bytes)
        embedder = SentenceEmbedder.load(package.path)
        if embedder is not None:
            write_sentences(staged, embedder, read_config(package.path).hidden_size)
            difference = check_vectors(staged, package.path)
            report = replace_fields(report, max_embedding_difference=difference)
        return report


def write_export(
    folder: Path, labels: Mapping[str, list[str]], target: Path, shard_bytes: int = SHARD_BYTES
) -> Report:
    """Write the files of an export into an existing folder and check them; see `export_package`.

    Args:
        folder: Files of the package.
        labels: Name of a target → names of its classes.
        target: Where their files go.
        shard_bytes: Larger models are written as several files.
    """
    config = read_config(folder)
    pad = config.pad_token_id if original_of(folder) is not None else padding_of(config)
    if pad != config.pad_token_id:
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            write_with_padding(folder, config, pad, Path(scratch), shard_bytes)
            return write_export(Path(scratch), labels, target, shard_bytes)
    files = weight_files(folder)
    architecture, values, theirs, names = counterpart(folder, config, labels)
    layout = {names(name): tensor for name, tensor in skeletons(files).items()}
    stored = {names(name): name for name in files}
    read = TensorReader(files)

    def fetch(name: str) -> Tensor:
        return read(stored[name])

    table = architecture.rows(theirs, values)
    write_weights(target, table, layout, fetch, shard_bytes)
    write_values(target, values)
    copy_processor(folder, processor_files(folder), target)
    if original_of(folder) is None:
        name_inputs(target, config)
        if _continues_prompts(config):
            _leave_prompts_open(target / TOKENIZER)
    complete = complete_values(architecture, values, target, weight_files(target))
    return check(target, architecture, complete, folder, config, layouts(table, fetch))


def counterpart(
    folder: Path, config: ModelConfig, labels: Mapping[str, list[str]]
) -> tuple[Architecture, JsonObject, ModelConfig, Callable[[str], str]]:
    """Return what the model is in transformers.

    Returns:
        Its class, the content of its config, our config with heads named after their types, and
        the function that renames our tensors accordingly.
    """
    original = original_of(folder)
    if original is not None:
        architecture, values = find_architecture(original[0]), original[1]
        tied = all(target.ties_words for target in config.target)
        pooler = any(target.type_name() == "vector" for target in config.target)
        stored = [*([] if tied else [OUTPUT]), *([f"{POOLER}weight"] if pooler else [])]
        complete = complete_values(architecture, values, folder, stored)
        again = architecture.read(complete, str(folder))
        if again != config:
            raise IntegrityError(f"{folder}: huggingface.json is not the config of this model.")
        return architecture, values, config, str
    canonical, rename = named_after_types(config)
    architecture = architecture_of(canonical)
    values = values_of(architecture, canonical) | _label_values(labels, config)
    values |= _token_values(folder, architecture, canonical, values)
    return architecture, values, canonical, rename


def _label_values(labels: Mapping[str, list[str]], config: ModelConfig) -> JsonObject:
    """Return ``id2label`` and ``label2id`` from the names of the first head that has any."""
    for target in config.target:
        names = labels.get(target.name, [])
        if names and len(names) == getattr(target, "num_labels", 0):
            return label_values(names)
    return {}


def _token_values(
    folder: Path, architecture: Architecture, config: ModelConfig, values: JsonObject
) -> JsonObject:
    """Return where a text begins and ends, by the package's own tokenizer.

    Without it their generation would stop, and CLIP look for the vector of a text, at the ids of
    the family's original tokenizer.
    """
    begin, end = (_id_of(folder, keys) for keys in (BEGIN, END))
    if end is None:
        return {}
    ends: JsonObject = {"eos_token_id": end}
    if begin is not None:  # Qwen's texts begin with their first word
        ends["bos_token_id"] = begin
    if architecture.model_type in ENDS_OF_ENCODERS:
        return ends | {"cls_token_id": begin, "sep_token_id": end}
    text = values.get("text_config")
    if architecture.model_type == "clip" and isinstance(text, dict):
        return {"text_config": text | ends}
    if not any(target.type_name() == "lm" for target in config.target):
        return {}
    if architecture.model_type in BEGIN_WITH_END:
        ends |= {"decoder_start_token_id": end, "forced_eos_token_id": end}
    return ends


def _id_of(folder: Path, keys: Sequence[str]) -> int | None:
    """Return the id of the first token that a tokenizer names with one of some keys."""
    paths = (folder / "tokenizer_config.json", folder / TOKENIZER)
    if not all(path.is_file() for path in paths):
        return None
    named, stored = (read_json(path) for path in paths)
    ids = {token["content"]: int(token["id"]) for token in stored.get("added_tokens", [])}
    given = [named[key] for key in keys if named.get(key) is not None]
    texts = [each["content"] if isinstance(each, dict) else each for each in given]
    return next((ids[text] for text in texts if text in ids), None)


def name_inputs(folder: Path, config: ModelConfig) -> None:
    """Say in a tokenizer's settings that the model reads segments, where they say nothing.

    Without it transformers' tokenizer leaves them out, and both texts of a pair get the first one.
    """
    path = folder / "tokenizer_config.json"
    content = read_json(path) if path.is_file() else {}
    if content and config.embedding.part("seg") is not None:
        content.setdefault("model_input_names", [*INPUTS])
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _continues_prompts(config: ModelConfig) -> bool:
    """Return whether a model writes on from a text, without a decoder of its own."""
    return config.decoder is None and any(each.type_name() == "lm" for each in config.target)


def _leave_prompts_open(path: Path) -> None:
    """Leave out the token that the tokenizer puts behind a text: it would end every prompt."""
    content = read_json(path) if path.is_file() else {}
    framing = content.get("post_processor") or {}
    changed = False
    for form in ("single", "pair"):
        pieces = framing.get(form) or []
        texts = [place for place, piece in enumerate(pieces) if "Sequence" in piece]
        if isinstance(pieces, list) and texts and texts[-1] + 1 < len(pieces):
            framing[form], changed = pieces[: texts[-1] + 1], True
    if changed:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")


def processor_files(folder: Path) -> list[str]:
    """Return the files that travel with the model, without those that only we read."""
    names = [name for name in PROCESSOR_FILES if (folder / name).is_file()]
    if OURS in names and read_json(folder / OURS).get("processor_type") == "text":
        names.remove(OURS)
    if (folder / TRANSLATION).is_file():
        names.remove(TOKENIZER)
    return names


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a scratch folder that becomes ``folder`` at the end, or disappears.

    Raises:
        InputError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty. Give a new folder.")
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(target)
    staged.mkdir()
    try:
        yield staged
        if target.is_dir():
            target.rmdir()
        replace(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
