"""Is a corpus what its manifest says? Every byte counts, but not everybody reads every byte.

Names and sizes are checked always, by everybody; so are the hashes of small files: plan, tokenizer,
sidecars. The driver of a job also hashes the shards, all of them up to a gibibyte, beyond that as
many as make a gibibyte, at equal distances. (The maker of a shard hashes it when it is written and
when a making goes on; a changed byte elsewhere shows as a token that is not there, or not at all.)
"""

from pathlib import Path
from typing import Any

from orchestrator.storage import read_manifest
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.files import scan
from orchestrator.storage.verify import require_hash, require_sizes

SMALL_BYTES = 1 << 20
HASHED_BYTES = 1 << 30


def check_corpus(folder: Path, thorough: bool) -> dict[str, Any]:
    """Check a committed corpus.

    Args:
        folder: of the corpus.
        thorough: hash shards as well.

    Returns:
        The manifest.

    Raises:
        IntegrityError: a file is missing, changed or not listed; names it.
    """
    manifest = read_manifest(folder)
    files = manifest["files"]
    found = scan(folder)
    found.pop(MANIFEST_NAME, None)
    require_sizes(str(folder), files, found)
    small = [name for name, entry in files.items() if entry["bytes"] <= SMALL_BYTES]
    large = [name for name, entry in files.items() if entry["bytes"] > SMALL_BYTES]
    for name in [*small, *(_sampled(large, files) if thorough else ())]:
        require_hash(folder / name, files[name]["sha256"])
    return manifest


def _sampled(names: list[str], files: dict[str, Any]) -> list[str]:
    """Return the names, or so many at equal distances that they make a gibibyte about."""
    total = sum(files[name]["bytes"] for name in names)
    kept = len(names) if total <= HASHED_BYTES else max(1, len(names) * HASHED_BYTES // total)
    return [names[number * len(names) // kept] for number in range(kept)]
