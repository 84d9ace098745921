"""Estimated size of a corpus, from the sizes of its files and its first documents."""

from dataclasses import dataclass
from itertools import islice

from orchestrator.data.documents import open_documents
from orchestrator.data.sources.contents import UNDIVIDED, Documents
from orchestrator.data.spec import CorpusConfig, DatasetSpec

PROBED_DOCUMENTS = 200
PROBED_CHARACTERS = 1 << 20
CHARACTERS_PER_TOKEN = 4  # English text, usual vocabulary size


@dataclass(frozen=True, slots=True)
class Estimate:
    """Approximate size of a source.

    Attributes:
        documents: Number of documents; None if it is unknown before reading.
        size: Bytes of text.
        shards: Number of shards.
    """

    documents: int | None
    size: int | None
    shards: int | None


def describe(config: CorpusConfig) -> dict[str, str]:
    """Return a corpus in words, for ``--check``.

    Raises:
        InputError: A source is missing, or the first document cannot be read.
    """
    found = [estimate(spec, config.shard_bytes) for spec in config.specs]
    size = _sum([each.size for each in found])
    documents = _sum([each.documents for each in found])
    shards = _sum([each.shards for each in found])
    tokenizer = config.tokenizer
    unknown = "not known before it is read"
    return {
        "corpus": config.title,
        "documents": unknown if documents is None else f"about {documents:,}",
        "text": unknown
        if size is None
        else f"about {size:,} bytes, {size // CHARACTERS_PER_TOKEN:,} tokens",
        "shards": f"{f'about {shards:,}' if shards else 'as many as needed'}, each of about "
        f"{config.shard_bytes:,} bytes of text",
        "tokenizer": tokenizer.path or f"{tokenizer.type}, {tokenizer.vocab_size} tokens",
        "blocks": f"{config.block_size} tokens",
    }


def estimate(spec: DatasetSpec, shard_bytes: int) -> Estimate:
    """Estimate one source; reads no more than the first documents of files.

    Raises:
        InputError: The source is missing, or the first document cannot be read.
    """
    documents = open_documents(spec)
    cap = spec.max_documents
    if spec.scheme != "files":
        return Estimate(cap, None, None)
    spans = documents.divide(UNDIVIDED)
    size = sum(span.size for span in spans)
    average = _average(documents)
    count = 0 if average is None else max(1, round(size / average))
    if cap is not None and average is not None and count > cap:
        count, size = cap, round(cap * average)
    return Estimate(count, size, max(1, -(-size // shard_bytes)))


def _average(documents: Documents) -> float | None:
    """Return the mean number of bytes of the first documents; None without documents."""
    count = total = 0
    for text in islice(documents, PROBED_DOCUMENTS):
        count += 1
        total += len(text.encode()) + 1
        if total > PROBED_CHARACTERS:
            break
    return total / count if count else None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
