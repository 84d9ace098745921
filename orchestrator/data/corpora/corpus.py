"""``prepare_corpus``: documents to a tokenizer and packed blocks, committed as one folder.

The folder is named by the digest of everything that decides its content, so asking twice costs one
check. Documents are split into train and validation by the hash of their text: equal documents are
on the same side. How a corpus is made, and what is in its folder: ``sharded.making``.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.corpora.prepared import KIND
from orchestrator.data.documents import open_documents
from orchestrator.data.processors.subwords import sentinel_ids
from orchestrator.data.processors.text import TOKENIZER, TextProcessor
from orchestrator.data.sharded.blocks import ShardedBlocks
from orchestrator.data.sharded.checking import check_corpus
from orchestrator.data.sharded.making import FORMAT, make, uncommit
from orchestrator.data.sharded.mapping import Mapper, Site, Watch, in_turn, unwatched
from orchestrator.data.sharded.shard import blocks_file
from orchestrator.data.spec import SPECIAL_TOKENS, CorpusConfig
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import locked, sha256_file
from orchestrator.storage.commit import MANIFEST_NAME

logger = logging.getLogger(__name__)

WAIT_S = 600.0  # for another process that makes the same corpus


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared corpus.

    Attributes:
        path: its folder.
        manifest: counts, hashes and the config it was made with.
        processor: its tokenizer.
        train: blocks to learn from.
        validation: blocks of held-out documents.
    """

    path: Path
    manifest: dict[str, Any]
    processor: TextProcessor
    train: TokenBlocks
    validation: TokenBlocks

    @property
    def documents(self) -> int:
        """Number of documents of both splits."""
        return int(sum(self.manifest["documents"].values()))

    @property
    def tokens(self) -> int:
        """Number of tokens of both splits, frames included, padding not."""
        return int(sum(self.manifest["tokens"].values()))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.manifest["shards"])

    @property
    def rejected(self) -> dict[str, int]:
        """Number of files and documents left out, by reason."""
        return dict(self.manifest["rejected"])

    def unigram_entropy(self) -> float:
        """Return the loss in nats a token of knowing only how often tokens occur.

        Cross-entropy of the validation tokens under the token frequencies of train (one added to
        every count), special tokens left out. A model that has learnt anything is below it. Very
        large splits are sampled, see ``TokenBlocks.counts``.
        """
        size, first = self.processor.vocab_size, len(SPECIAL_TOKENS)
        words = slice(first, size - len(sentinel_ids(self.processor.tokenizer)))
        seen = self.train.counts(size)[words] + 1
        asked = self.validation.counts(size)[words]
        return float(-(asked * np.log(seen / seen.sum())).sum() / max(asked.sum(), 1))


def prepare_corpus(
    config: CorpusConfig,
    cache_dir: str | Path,
    mapper: Mapper = in_turn,
    watch: Watch = unwatched,
) -> Corpus:
    """Make a corpus, or open it where it has been made before; one process at a time makes it.

    Args:
        config: documents, tokenizer and block size, or the folder of a prepared corpus.
        cache_dir: the corpus is made below it as ``corpus-<digest>``.
        mapper: how its pieces are worked on; the bytes do not depend on it.
        watch: is told how far it is.

    Raises:
        InputError: the source is missing or empty, or fewer than two documents differ.
        IntegrityError: the prepared corpus is not what its manifest says.
        StageError: the folder cannot be written, or another process is still making the corpus.
    """
    if config.prepared is not None:
        return open_corpus(Path(config.prepared))
    cache = Path(cache_dir)
    site = _site(config, cache)
    final = Path(site.folder)
    found = _opened(final)
    if found is not None:
        return found
    with locked(cache / f".{final.name}.lock", WAIT_S):
        found = _opened(final)  # another process may have made it meanwhile
        if found is None:
            uncommit(final)
            make(site, mapper, watch)
            found = open_corpus(final, thorough=False)
            logger.info("event=corpus_ready documents=%d tokens=%d", found.documents, found.tokens)
    return found


def find_corpus(config: CorpusConfig, cache_dir: str | Path) -> Corpus | None:
    """Return a corpus that has been made before and is whole, or None.

    Raises:
        InputError: the source is missing.
    """
    return _opened(Path(_site(config, Path(cache_dir)).folder))


def open_corpus(path: Path, thorough: bool = True) -> Corpus:
    """Open a committed corpus.

    Args:
        path: its folder.
        thorough: check hashes, see ``check_corpus``; once a job is enough.

    Raises:
        IntegrityError: it is not what its manifest says.
    """
    manifest = check_corpus(path, thorough)
    if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
        raise IntegrityError(
            f"{path}: is a {manifest.get('kind')} of format {manifest.get('format')}, and this "
            f"version reads a {KIND} of format {FORMAT}. Make it again."
        )
    train, validation = (_blocks(path, manifest, split) for split in ("train", "validation"))
    return Corpus(path, manifest, TextProcessor.load(path), train, validation)


def _opened(path: Path) -> Corpus | None:
    if not (path / MANIFEST_NAME).exists():
        return None
    try:
        return open_corpus(path)
    except IntegrityError as error:
        logger.warning("event=damaged_corpus_made_again reason=%r", str(error))
        return None


def _blocks(path: Path, manifest: dict[str, Any], split: str) -> TokenBlocks:
    sizes = [shard["blocks"][split] for shard in manifest["shards"]]
    paths = [path / blocks_file(split, number) for number in range(len(sizes))]
    parts = tuple(manifest["blocks"][split])
    return ShardedBlocks(paths, sizes, manifest["block_size"], parts)


def _site(config: CorpusConfig, cache: Path) -> Site:
    """Return where a corpus belongs.

    Raises:
        InputError: the source or the tokenizer is missing.
    """
    identities = [open_documents(spec, cache).identity for spec in config.specs]
    folder = cache / f"corpus-{_digest(config, identities)}"
    return Site(
        folder=str(folder.resolve()),
        cache=str(cache.resolve()),
        settings=config.model_dump_json(),
        identity=json.dumps(identities),
    )


def _digest(config: CorpusConfig, identities: Sequence[dict[str, object]]) -> str:
    tokenizer = config.tokenizer.model_dump()
    if config.tokenizer.path is not None:
        tokenizer = {"sha256": _tokenizer_hash(Path(config.tokenizer.path))}
    decides = {
        "format": FORMAT,
        "documents": list(identities),
        "sentences": config.sentences,
        "tokenizer": tokenizer,
        "block_size": config.block_size,
        "shard_bytes": config.shard_bytes,
        "seed": config.specs[0].seed,
        "validation_fraction": config.specs[0].validation_fraction,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _tokenizer_hash(folder: Path) -> str:
    if not (folder / TOKENIZER).is_file():
        raise InputError(
            f"tokenizer.path: {folder} holds no {TOKENIZER}. Give a folder with one, or leave path "
            "out to train a tokenizer."
        )
    return sha256_file(folder / TOKENIZER)
