"""Import of a checkpoint of transformers as a package; checked before it is committed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.huggingface.architecture import Table, layouts
from orchestrator.modeling.huggingface.checking import Report, check
from orchestrator.modeling.huggingface.folder import (
    Contents,
    Source,
    compare,
    converted,
    open_source,
)
from orchestrator.modeling.huggingface.sentence_check import check_vectors
from orchestrator.modeling.huggingface.sentences import MODULES, SentenceFolder, read_sentences
from orchestrator.modeling.huggingface.sources import (
    Files,
    Origin,
    copy_processor,
    hash_files,
    locate,
)
from orchestrator.modeling.huggingface.tokenization.completion import (
    complete_tokenizer,
    require_rows,
)
from orchestrator.modeling.huggingface.values import JsonObject
from orchestrator.modeling.package import write_config
from orchestrator.modeling.tensor_files import (
    SHARD_BYTES,
    TensorReader,
    weight_files,
    write_tensors,
)
from orchestrator.storage.json_files import read_json
from orchestrator.zoo.draft import Draft
from orchestrator.zoo.package import Package
from orchestrator.zoo.zoo import Zoo

ORIGINAL = "huggingface.json"
"""Parts of their config that ours does not hold, so that an export can restore them."""
REPORT = "evaluation/import.json"
LONGEST = 1_000_000
"""Larger values of ``model_max_length`` mean that a tokenizer has no limit."""
TASKS = {"cls": "classification"}
"""Type of the first target → kind of the task, where they differ."""
MODALITIES = {
    "text": "text",
    "ended_text": "text",
    "image": "vision",
    "image_text": "vision",
    "log_mel": "audio",
    "waveform": "audio",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        revision: Branch, tag or commit of a repository.
        name: Name of the package; default: the last part of the source.
        leave_out: Patterns of tensors that need not be read although the files hold them.
        licence: SPDX identifier.
        shard_bytes: Larger models are written as several files.
    """

    revision: str | None = None
    name: str | None = None
    leave_out: Sequence[str] = ()
    licence: str | None = None
    shard_bytes: int = SHARD_BYTES


def import_checkpoint(zoo: Zoo, source: str, options: ImportOptions) -> Package:
    """Import a checkpoint as the next version of a package.

    Args:
        zoo: Where the package goes.
        source: ``hf:<folder>`` or ``hf:<owner>/<repository>``.
        options: See `ImportOptions`.

    Raises:
        InputError: The source is not there, or its architecture or an option is not supported.
        IntegrityError: Tensors are missing, unexpected or mis-shaped, a file is damaged or leads
            elsewhere, or the numeric check failed. Nothing was committed.
    """
    origin = locate(source, options.revision)
    checkpoint = open_source(origin.folder)
    contents = compare(checkpoint, options.leave_out)
    sentences = _sentences(checkpoint)
    modules = () if sentences is None else sentences.files
    files = hash_files(origin, contents.files.values(), modules)
    with zoo.draft(
        options.name or origin.name,
        kind="imported",
        producer=_producer(origin, checkpoint, files),
        licence=options.licence,
    ) as draft:
        convert(checkpoint, contents, draft.path, options.shard_bytes)
        copy_processor(origin.folder, files.processor, draft.path)
        if checkpoint.architecture.processor != "image":
            _complete(checkpoint, draft.path)
        report = check(
            origin.folder,
            checkpoint.architecture,
            checkpoint.values,
            draft.path,
            checkpoint.config,
            written(checkpoint.table, draft.path),
        )
        _describe(draft, checkpoint, contents, files, report)
        if sentences is not None:
            _state_vectors(draft, origin.folder, sentences)
        return draft.commit()


def _complete(source: Source, target: Path) -> None:
    """Make the tokenizer's file, where it is missing, and compare its size with the model's."""
    config = source.config
    aligned = any(head.type_name() == "ctc" for head in config.target)
    blank = config.pad_token_id if aligned else None
    complete_tokenizer(source.folder, target, config.vocab_size, blank)
    require_rows(target, config.vocab_size)


def _sentences(source: Source) -> SentenceFolder | None:
    """Read the modules of sentence-transformers beside an encoder of texts."""
    positions = source.config.max_position_embeddings
    longest = _max_length(source.folder, positions)
    found = read_sentences(source.folder, source.config.hidden_size, longest, positions)
    if found is not None and source.architecture.processor != "text":
        raise InputError(
            f"{source.folder / MODULES}: {source.architecture.name} does not read texts, whose "
            "vectors the modules make. Import a copy of the folder without modules.json."
        )
    return found


def _state_vectors(draft: Draft, theirs: Path, sentences: SentenceFolder) -> None:
    """Write how texts become vectors, and compare them with theirs."""
    sentences.embedder.save(draft.path)
    draft.metrics["import.embedding_max_abs_difference"] = check_vectors(theirs, draft.path)
    assert draft.task is not None
    draft.task["max_length"] = sentences.embedder.statement.max_length


def convert(
    source: Source, contents: Contents, folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint in our form: weights, ``config.json`` and ``huggingface.json``."""
    write_tensors(folder, contents.layout, converted(source, contents), shard_bytes)
    write_config(folder, source.config)
    original = {"architecture": source.architecture.name, "config": source.raw}
    write_json(folder / ORIGINAL, original)


def written(table: Table, folder: Path) -> Iterator[Tensor]:
    """Yield the tensors of a package as their model may hold them; see `layouts`."""
    return layouts(table, TensorReader(weight_files(folder)))


def _producer(origin: Origin, source: Source, files: Files) -> JsonObject:
    return {
        "stage": "import",
        "source": origin.source,
        "revision": origin.revision,
        "architecture": source.architecture.name,
        "source_files": {**files.hashes},
    }


def _describe(
    draft: Draft, source: Source, contents: Contents, files: Files, report: Report
) -> None:
    """Fill in what the manifest says, and write the report."""
    draft.task = task_of(source, draft.path)
    draft.metrics |= {
        "import.max_abs_difference": report.max_abs_difference,
        "import.max_relative_difference": report.max_relative_difference,
        "parameters": sum(tensor.numel() for tensor in contents.layout.values()),
    }
    (draft.path / REPORT).parent.mkdir(exist_ok=True)
    details = {
        "tensors_left_out": list(contents.left_out),
        "other_heads_left_out": list(contents.other_heads),
        "tensors_renamed": contents.stored,
        "tensors_computed": sorted(contents.computed),
        "files_left_out": list(files.left_out),
    }
    write_json(draft.path / REPORT, report.to_json() | details)


def task_of(source: Source, folder: Path) -> JsonObject:
    """Return the task of the manifest: what goes in, what comes out."""
    targets = source.config.target
    kind = targets[0].type_name() if targets else "embedding"
    names = source.values.labels()
    named = [each for each in targets if getattr(each, "num_labels", 0) == len(names)]
    return {
        "kind": TASKS.get(kind, kind),
        "modality": MODALITIES[source.architecture.processor],
        "labels": {each.name: [*names] for each in named},
        "max_length": _max_length(folder, source.config.max_position_embeddings),
    }


def _max_length(folder: Path, positions: int) -> int:
    path = (folder / "tokenizer_config.json").resolve()  # the Hub's cache holds links
    limit = read_json(path).get("model_max_length") if path.is_file() else None
    if not isinstance(limit, (int, float)) or not 0 < limit < LONGEST:
        return positions
    return min(int(limit), positions)


def original_of(folder: Path) -> tuple[str, JsonObject] | None:
    """Return the class and the config of an imported package; None for one made here.

    Raises:
        IntegrityError: The file is damaged.
    """
    path = folder / ORIGINAL
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return str(content["architecture"]), dict(content["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged: {error!r}. Import the model again.") from error


def write_json(path: Path, content: Any) -> None:
    """Write a file of a draft; the commit makes it durable."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
