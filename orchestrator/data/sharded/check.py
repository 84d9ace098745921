"""Integrity check of a corpus: names, sizes and hashes against its manifest.

Every process checks names and sizes, and the hashes of small files: plan, tokenizer, sidecars. The
driver of a job also hashes the shards: all of them up to one gibibyte, beyond that a sample of one
gibibyte at equal distances, because hashing a large corpus takes minutes. A shard is also hashed
when it is written and when an interrupted build resumes.
"""

from pathlib import Path

from orchestrator.data.corpora.manifests import (
    CORPUS_FORMAT,
    CorpusManifest,
    FileEntry,
    read_as,
)
from orchestrator.data.corpora.prepared import KIND
from orchestrator.errors import IntegrityError
from orchestrator.storage import read_manifest
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.files import scan
from orchestrator.storage.verify import require_hash, require_sizes

SMALL_BYTES = 1 << 20
HASHED_BYTES = 1 << 30


def check_corpus(folder: Path, thorough: bool) -> CorpusManifest:
    """Check a committed corpus.

    Args:
        folder: Folder of the corpus.
        thorough: Also hash the shards.

    Returns:
        The manifest.

    Raises:
        IntegrityError: It is not a corpus of this format, or a file is missing, changed or not
            listed.
    """
    stored = read_manifest(folder)
    found = scan(folder)
    found.pop(MANIFEST_NAME, None)
    require_sizes(str(folder), stored["files"], found)
    if stored.get("kind") != KIND or stored.get("format") != CORPUS_FORMAT:
        raise IntegrityError(
            f"{folder}: is a {stored.get('kind')} of format {stored.get('format')}, and this "
            f"version reads a {KIND} of format {CORPUS_FORMAT}. Build it again."
        )
    manifest = read_as(CorpusManifest, stored, folder)
    files = manifest.files
    small = [name for name, entry in files.items() if entry.bytes <= SMALL_BYTES]
    large = [name for name, entry in files.items() if entry.bytes > SMALL_BYTES]
    for name in [*small, *(_sampled(large, files) if thorough else ())]:
        require_hash(folder / name, files[name].sha256)
    return manifest


def _sampled(names: list[str], files: dict[str, FileEntry]) -> list[str]:
    """Return the names, or a sample at equal distances of about one gibibyte."""
    total = sum(files[name].bytes for name in names)
    count = len(names) if total <= HASHED_BYTES else max(1, len(names) * HASHED_BYTES // total)
    return [names[number * len(names) // count] for number in range(count)]
