"""Shards: written from the documents of a piece, and read as one sequence of blocks.

Files of shard 7: ``train-00007.arrow`` and ``validation-00007.arrow`` with the blocks, the borders
of their sentences beside each (``.sentences.arrow``), and ``shard-00007.json``, the sidecar: a hash
of its inputs, counts, rejected documents by reason, sizes and hashes of the files. The sidecar is
written last. A shard whose sidecar has the right inputs, and files that match it, is not built
again.

Packing ends with the shard: its last block is padded. Carrying the rest of a block into the next
shard would save less than one block per shard, and make every shard depend on all earlier ones.

A reader opens a shard at its first use.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import SplitWriter, TokenBlocks, map_blocks
from orchestrator.data.corpora.border_table import BorderTable, borders_path
from orchestrator.data.corpora.manifests import FileEntry
from orchestrator.data.processors.roles import Roles
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.unknown import count_unknown
from orchestrator.data.samples.passages import encode_sentences
from orchestrator.data.sharded.contracts import (
    SPLITS,
    BuiltShard,
    CorpusJob,
    ShardRules,
    ShardTask,
    Sidecar,
    content_hash,
)
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import (
    atomic_write_json,
    read_json,
    sha256_file,
    temporary_sibling,
)
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.operations import make_folder, replace, sync_file

DOCUMENTS_PER_BATCH = 512
CHARACTERS_PER_BATCH = 1 << 18  # encodings take a hundred times the memory of their text
OPEN_SHARDS = 256  # open maps; each holds a file descriptor, and a process has about a thousand


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


def build_shard(task: ShardTask, job: CorpusJob, rules: ShardRules) -> BuiltShard:
    """Build one shard, or find it finished.

    Args:
        task: Number and piece of the shard.
        job: Output folder and inputs of the corpus.
        rules: The same for all shards.

    Raises:
        InputError: The source has changed since the survey.
        StageError: The files cannot be written.
    """
    folder, number = Path(job.folder), task.number
    blocks, sentences = job.config.block_size, job.config.sentences
    made_of = content_hash([task.piece, task.documents, rules, blocks, sentences, folder.name])
    found = _finished(folder, number, made_of)
    if found is not None:
        return BuiltShard(sidecar=found, built=False)
    staged = temporary_sibling(folder / f"shard-{number:05}")
    with explained(folder):
        make_folder(staged)
        try:
            sidecar = _write(task, job, rules, made_of, staged)
            for name in sidecar.files:
                sync_file(staged / name)
                replace(staged / name, folder / name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    atomic_write_json(folder / sidecar_file(number), sidecar)
    return BuiltShard(sidecar=sidecar, built=True)


def entry_of(path: Path) -> FileEntry:
    """Return the hash and the size of a file."""
    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in lists of limited length and number of characters."""
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


class ShardedBlocks(TokenBlocks):
    """The blocks of a split over all shards; they and their borders stay on disk."""

    def __init__(
        self,
        paths: Sequence[Path],
        sizes: Sequence[int],
        block_size: int,
        parts: tuple[int, ...],
        roles: Roles,
    ) -> None:
        """Take shards that need not be opened yet.

        Args:
            paths: Their files, in order.
            sizes: Number of blocks of each.
            block_size: S.
            parts: Number of blocks of each source.
            roles: Special tokens of the corpus's tokenizer.
        """
        self.roles = roles
        self._paths, self._sizes = list(paths), list(sizes)
        self._lay_out(self._sizes, block_size, parts)
        self._opened = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    @cached_property
    def borders(self) -> BorderTable:
        """Positions where documents and sentences begin in the stream of all shards.

        Raises:
            IntegrityError: A file is missing or damaged.
        """
        positions = (self._starts[:-1] * self.block_size).tolist()
        return BorderTable([borders_path(path) for path in self._paths], positions)

    def _open(self, number: int) -> TokenBlocks:
        path = self._paths[number]
        chunks, size = map_blocks(path)
        found = TokenBlocks(chunks, size)
        if (len(found), size) != (self._sizes[number], self.block_size):
            raise IntegrityError(
                f"{path}: has {len(found)} blocks of {size} tokens, the manifest says "
                f"{self._sizes[number]} of {self.block_size}. Build the corpus again."
            )
        return found

    def _take(self, number: int, indices: IntArray) -> IntArray:
        return self._opened(number).rows(indices)

    def _stretch(self, number: int, start: int, stop: int) -> IntArray:
        return self._opened(number).span(start, stop)


def _finished(folder: Path, number: int, made_of: str) -> Sidecar | None:
    """Return the sidecar of a shard with these inputs and intact files, or None."""
    try:
        sidecar = Sidecar.model_validate(read_json(folder / sidecar_file(number)))
        whole = sidecar.made_of == made_of and set(sidecar.files) == set(shard_files(number))
        whole = whole and all(
            (folder / name).stat().st_size == entry.bytes
            and sha256_file(folder / name) == entry.sha256
            for name, entry in sidecar.files.items()
        )
    except (OSError, IntegrityError, ValueError):
        return None
    return sidecar if whole else None


def _write(
    task: ShardTask, job: CorpusJob, rules: ShardRules, made_of: str, folder: Path
) -> Sidecar:
    """Write the files of a shard into a folder; return its sidecar."""
    number, piece, config = task.number, task.piece, job.config
    processor = _processor(job.folder, rules.tokenizer_sha256)
    rejected: Counter[str] = Counter()
    read = unknown = 0
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                SplitWriter(
                    folder / blocks_file(split, number),
                    config.block_size,
                    processor.vocab_size,
                    processor.roles,
                )
            )
            for split in SPLITS
        }
        for texts in batches(piece.documents(job.sources(), rejected)):
            read += len(texts)
            found = encode_sentences(processor.tokenizer, texts, config.sentences)
            for text, (ids, sentences) in zip(texts, found, strict=True):
                unknown += count_unknown(processor, [ids])
                if ids:
                    split = "validation" if rules.held_out.has(text) else "train"
                    writers[split].add_document(ids, sentences)
                rejected["no tokens"] += not ids
        blocks = {split: writer.fill() for split, writer in writers.items()}
    _require_unchanged(config.specs[piece.source].source, task.documents, read)
    return Sidecar(
        number=number,
        made_of=made_of,
        source=piece.source,
        documents={split: writer.documents for split, writer in writers.items()},
        tokens={split: writer.tokens for split, writer in writers.items()},
        blocks=blocks,
        rejected={reason: n for reason, n in sorted(rejected.items()) if n},
        unknown=unknown,
        files={name: entry_of(folder / name) for name in shard_files(number)},
    )


def _require_unchanged(source: str, surveyed: int, read: int) -> None:
    if read != surveyed:
        raise InputError(
            f"{source}: had {surveyed} documents in a part that has {read} now. It was changed "
            "while the corpus was built; start again when no process writes to it."
        )


@lru_cache(maxsize=1)
def _processor(folder: str, sha256: str) -> TextProcessor:
    """Return the tokenizer of a corpus; a worker reads it once."""
    del sha256  # another one is another tokenizer
    return TextProcessor.load(folder)
