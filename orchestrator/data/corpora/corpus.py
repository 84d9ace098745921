"""``prepare_corpus``: documents to a tokenizer and packed blocks, committed as one folder.

The folder is named by the digest of everything that determines its content, so a second call costs
one check. Documents are split into train and validation by the hash of their text, so equal
documents are in the same split. ``sharded.build`` describes the folder and builds it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.corpora.manifests import CORPUS_FORMAT, CorpusManifest
from orchestrator.data.processors.roles import OURS, Roles
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.tokenizer_files import TOKENIZER
from orchestrator.data.sharded.build import build, check_corpus, uncommit
from orchestrator.data.sharded.contracts import SPLITS, CorpusJob, Mapper, Watch, in_turn, no_watch
from orchestrator.data.sharded.shard import ShardedBlocks, blocks_file
from orchestrator.data.sources.opening import open_documents
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import locked, sha256_file
from orchestrator.storage.commit import MANIFEST_NAME

logger = logging.getLogger(__name__)

WAIT_S = 600.0  # limit of waiting for another process that builds the same corpus


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared corpus.

    Attributes:
        path: Its folder.
        manifest: Counts, hashes and the config it was built with.
        processor: Its tokenizer.
        train: Blocks to learn from.
        validation: Blocks of held-out documents.
    """

    path: Path
    manifest: CorpusManifest
    processor: TextProcessor
    train: TokenBlocks
    validation: TokenBlocks
    modality: ClassVar[str] = "text"

    @property
    def documents(self) -> int:
        """Number of documents of both splits."""
        return int(sum(self.manifest.documents.values()))

    @property
    def tokens(self) -> int:
        """Number of tokens of both splits, frames included, padding not."""
        return int(sum(self.manifest.tokens.values()))

    @property
    def unknown_share(self) -> float:
        """Share of tokens that the tokenizer does not know."""
        return self.manifest.unknown / max(self.tokens - 2 * self.documents, 1)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.manifest.shards)

    @property
    def rejected(self) -> dict[str, int]:
        """Number of files and documents left out, by reason."""
        return dict(self.manifest.rejected)

    def unigram_entropy(self) -> float:
        """Return the loss in nats per token of a model that knows only token frequencies.

        Cross-entropy of the validation tokens under the token frequencies of train (one added to
        every count), special and added tokens left out. A model that has learned anything is below
        it. Very large splits are sampled, see ``TokenBlocks.counts``.
        """
        size = self.processor.vocab_size
        words = self.processor.roles.drawable(size)
        seen = self.train.counts(size)[words] + 1
        asked = self.validation.counts(size)[words]
        return float(-(asked * np.log(seen / seen.sum())).sum() / max(asked.sum(), 1))


def prepare_corpus(
    config: CorpusConfig,
    cache_dir: str | Path,
    mapper: Mapper = in_turn,
    watch: Watch = no_watch,
) -> Corpus:
    """Build a corpus, or open it if it exists; one process at a time builds it.

    Args:
        config: Documents, tokenizer and block size, or the folder of a prepared corpus.
        cache_dir: The corpus is built below it as ``corpus-<digest>``.
        mapper: Runs the tasks; the bytes do not depend on it.
        watch: Receives the progress.

    Raises:
        InputError: The source is missing or empty, or fewer than two documents differ.
        IntegrityError: The prepared corpus does not match its manifest.
        StageError: The folder cannot be written, or another process is still building the corpus.
    """
    if config.prepared is not None:
        return open_corpus(Path(config.prepared))
    cache = Path(cache_dir)
    job = _job(config, cache)
    final = Path(job.folder)
    found = _opened(final)
    if found is not None:
        return found
    with locked(cache / f".{final.name}.lock", WAIT_S):
        found = _opened(final)  # another process may have built it meanwhile
        if found is None:
            uncommit(final)
            build(job, mapper, watch)
            found = open_corpus(final, thorough=False)
            logger.info("event=corpus_ready documents=%d tokens=%d", found.documents, found.tokens)
    return found


def find_corpus(config: CorpusConfig, cache_dir: str | Path) -> Corpus | None:
    """Return a corpus that was built before and is intact, or None.

    Raises:
        InputError: The source is missing.
    """
    return _opened(Path(_job(config, Path(cache_dir)).folder))


def open_corpus(path: Path, thorough: bool = True) -> Corpus:
    """Open a committed corpus.

    Args:
        path: Its folder.
        thorough: Also hash the shards, see ``check_corpus``; once per job is enough.

    Raises:
        IntegrityError: It does not match its manifest.
    """
    manifest = check_corpus(path, thorough)
    processor = TextProcessor.load(path)
    train, validation = (_blocks(path, manifest, split, processor.roles) for split in SPLITS)
    return Corpus(path, manifest, processor, train, validation)


def _opened(path: Path) -> Corpus | None:
    if not (path / MANIFEST_NAME).exists():
        return None
    try:
        return open_corpus(path)
    except IntegrityError as error:
        logger.warning("event=damaged_corpus_made_again reason=%r", str(error))
        return None


def _blocks(path: Path, manifest: CorpusManifest, split: str, roles: Roles) -> TokenBlocks:
    sizes = [shard.blocks[split] for shard in manifest.shards]
    paths = [path / blocks_file(split, number) for number in range(len(sizes))]
    return ShardedBlocks(paths, sizes, manifest.block_size, manifest.blocks[split], roles)


def _job(config: CorpusConfig, cache: Path) -> CorpusJob:
    """Return the output folder and the inputs of a corpus.

    Raises:
        InputError: The source or the tokenizer is missing.
    """
    identities = [open_documents(spec, cache).identity for spec in config.specs]
    folder = cache / f"corpus-{_digest(config, identities)}"
    return CorpusJob(
        folder=str(folder.resolve()),
        cache=str(cache.resolve()),
        settings=config.model_dump_json(),
        identity=json.dumps(identities),
    )


def _digest(config: CorpusConfig, identities: Sequence[Mapping[str, object]]) -> str:
    tokenizer = config.tokenizer.model_dump()
    if config.tokenizer.path is not None:
        tokenizer = _identity(Path(config.tokenizer.path))
    decides = {
        "format": CORPUS_FORMAT,
        "documents": list(identities),
        "sentences": config.sentences,
        "tokenizer": tokenizer,
        "block_size": config.block_size,
        "shard_bytes": config.shard_bytes,
        "seed": config.specs[0].seed,
        "validation_fraction": config.specs[0].validation_fraction,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _identity(folder: Path) -> dict[str, object]:
    """Return what decides the tokens: the tokenizer's file, and the frames its others name."""
    if not (folder / TOKENIZER).is_file():
        raise InputError(
            f"tokenizer.path: {folder} holds no {TOKENIZER}. Give a folder with one, or leave path "
            "out to train a tokenizer."
        )
    roles = TextProcessor.load(folder).roles
    frame, ours = ((each.opening, each.closing, each.filler) for each in (roles, OURS))
    found: dict[str, object] = {"sha256": sha256_file(folder / TOKENIZER)}
    return found if frame == ours else {**found, "frame": frame}
