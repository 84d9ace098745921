"""One shard: the documents of a piece, tokenized, split and packed.

Files of shard 7: ``train-00007.arrow`` and ``validation-00007.arrow`` with the blocks, the borders
of their sentences beside each (``.sentences.arrow``), and ``shard-00007.json``, the sidecar: what
the shard was made of and with, counts, what was left out by reason, sizes and hashes of the files.
The sidecar is written last. A shard that has one that fits, and files that fit it, is finished and
not made again.

Packing ends with the shard: its last block is padded. Carrying the rest of a block into the next
shard would save less than one block a shard, and make every shard depend on all before it.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.data.corpora.border_table import borders_path
from orchestrator.data.corpora.borders import SplitWriter
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.samples.passages import encode_sentences
from orchestrator.data.sharded.mapping import Row, Site
from orchestrator.data.sharded.pieces import Piece
from orchestrator.data.sharded.survey import HeldOut
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import (
    atomic_write_json,
    read_json,
    sha256_bytes,
    sha256_file,
    temporary_sibling,
)
from orchestrator.storage.failures import explained
from orchestrator.storage.operations import make_folder, replace, sync_file

SPLITS = ("train", "validation")
DOCUMENTS_PER_BATCH = 512
CHARACTERS_PER_BATCH = 1 << 18  # encodings take a hundred times the memory of their text


def blocks_file(split: str, number: int) -> str:
    """Return the name of the file with the blocks of a split of a shard."""
    return f"{split}-{number:05}.arrow"


def sidecar_file(number: int) -> str:
    """Return the name of the sidecar of a shard."""
    return f"shard-{number:05}.json"


def shard_files(number: int) -> list[str]:
    """Return the names of the files of a shard, without its sidecar."""
    blocks = [blocks_file(split, number) for split in SPLITS]
    return [name for file in blocks for name in (file, borders_path(Path(file)).name)]


def make_shard(row: Row, site: Site, rules: dict[str, Any]) -> Row:
    """Make one shard, or find it finished.

    Args:
        row: ``number``, ``piece``, and ``documents``, how many the survey found in it.
        site: where and of what.
        rules: the same for all shards: ``held_out`` and ``tokenizer_sha256``.

    Returns:
        What the sidecar says, and ``made``: whether the files were written by this call.

    Raises:
        InputError: the source has changed since the survey.
        StageError: the files cannot be written.
    """
    folder, number = Path(site.folder), int(row["number"])
    made_of = _key(row, site, rules)
    found = _finished(folder, number, made_of)
    if found is not None:
        return {**found, "made": False}
    staged = temporary_sibling(folder / f"shard-{number:05}")
    with explained(folder):
        make_folder(staged)
        try:
            counts = _write(row, site, rules, staged)
            for name in counts["files"]:
                sync_file(staged / name)
                replace(staged / name, folder / name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    sidecar = {"number": number, "made_of": made_of, **counts}
    atomic_write_json(folder / sidecar_file(number), sidecar)
    return {**sidecar, "made": True}


def _finished(folder: Path, number: int, made_of: str) -> dict[str, Any] | None:
    """Return the sidecar of a shard that is made of this and whose files are whole, or None."""
    try:
        sidecar = read_json(folder / sidecar_file(number))
        listed = sidecar["files"]
        whole = sidecar["made_of"] == made_of and set(listed) == set(shard_files(number))
        whole = whole and all(
            (folder / name).stat().st_size == entry["bytes"]
            and sha256_file(folder / name) == entry["sha256"]
            for name, entry in listed.items()
        )
    except (OSError, IntegrityError, KeyError, TypeError):
        return None
    return dict(sidecar) if whole else None


def _key(row: Row, site: Site, rules: dict[str, Any]) -> str:
    """Return what decides the bytes of a shard, as a hash."""
    config = site.config
    decides = [row["piece"], row["documents"], rules, config.block_size, config.sentences]
    return plan_hash([*decides, Path(site.folder).name])


def _write(row: Row, site: Site, rules: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the files of a shard into a folder; return its counts."""
    number, piece = int(row["number"]), Piece.from_json(row["piece"])
    processor = _processor(site.folder, rules["tokenizer_sha256"])
    held_out, config = HeldOut(**rules["held_out"]), site.config
    rejected: Counter[str] = Counter()
    read = 0
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                SplitWriter(
                    folder / blocks_file(split, number), config.block_size, processor.vocab_size
                )
            )
            for split in SPLITS
        }
        for texts in batches(piece.documents(site.sources(), rejected)):
            read += len(texts)
            found = encode_sentences(processor.tokenizer, texts, config.sentences)
            for text, (ids, sentences) in zip(texts, found, strict=True):
                if ids:
                    split = "validation" if held_out.has(text) else "train"
                    writers[split].add_document(ids, sentences)
                rejected["no tokens"] += not ids
        blocks = {split: writer.fill() for split, writer in writers.items()}
    _require_unchanged(config.specs[piece.source].source, row["documents"], read)
    return {
        "source": piece.source,
        "documents": {split: writer.documents for split, writer in writers.items()},
        "tokens": {split: writer.tokens for split, writer in writers.items()},
        "blocks": blocks,
        "rejected": {reason: n for reason, n in sorted(rejected.items()) if n},
        "files": {
            name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
            for name in shard_files(number)
        },
    }


def _require_unchanged(source: str, surveyed: int, read: int) -> None:
    if read != surveyed:
        raise InputError(
            f"{source}: had {surveyed} documents in a part that has {read} now. It was changed "
            "while the corpus was made; start again when nobody writes to it."
        )


@lru_cache(maxsize=1)
def _processor(folder: str, sha256: str) -> TextProcessor:
    """Return the tokenizer of a corpus; a worker reads it once."""
    del sha256  # another one is another tokenizer
    return TextProcessor.load(folder)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in lists that are short in number and in characters."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == DOCUMENTS_PER_BATCH or characters >= CHARACTERS_PER_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def plan_hash(content: Any) -> str:
    """Return the SHA-256 of JSON data."""
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())
