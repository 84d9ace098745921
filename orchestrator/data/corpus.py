"""``prepare_corpus``: documents to a tokenizer and packed blocks, committed as one folder.

The folder is named by the digest of everything that decides its content, so asking twice costs one
check of the hashes. Documents are split into train and validation by the hash of their text: equal
documents are on the same side.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.blocks import BlockWriter, TokenBlocks
from orchestrator.data.documents import Documents, open_documents
from orchestrator.data.processors import TOKENIZER, TextProcessor
from orchestrator.data.spec import SPECIAL_TOKENS, CorpusConfig
from orchestrator.data.splitting import rank
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import commit_folder, sha256_file, temporary_sibling, verify_folder

logger = logging.getLogger(__name__)

FORMAT = 1
TRAIN, VALIDATION = "train.arrow", "validation.arrow"
DOCUMENTS_PER_BATCH = 512
TOKENIZER_CHARACTERS = 50_000_000  # a tokenizer learns no more from more text, but takes longer


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
    def rejected(self) -> dict[str, int]:
        """Number of files and documents left out, by reason."""
        return dict(self.manifest["rejected"])

    def unigram_entropy(self) -> float:
        """Return the loss in nats a token of knowing only how often tokens occur.

        Cross-entropy of the validation tokens under the token frequencies of train (one added to
        every count), special tokens left out. A model that has learnt anything is below it.
        """
        size, first = self.processor.vocab_size, len(SPECIAL_TOKENS)
        seen = self.train.counts(size)[first:] + 1
        asked = self.validation.counts(size)[first:]
        return float(-(asked * np.log(seen / seen.sum())).sum() / max(asked.sum(), 1))


def prepare_corpus(config: CorpusConfig, cache_dir: str | Path) -> Corpus:
    """Make a corpus, or open it where it has been made before.

    Args:
        config: documents, tokenizer and block size.
        cache_dir: the corpus is committed below it as ``corpus-<digest>``.

    Raises:
        InputError: the source is missing or empty, or fewer than two documents differ.
    """
    cache = Path(cache_dir)
    documents = open_documents(config.spec, cache)
    final = cache / f"corpus-{_digest(config, documents)}"
    if final.is_dir():
        try:
            return open_corpus(final)
        except IntegrityError as error:
            logger.warning("event=damaged_corpus_made_again reason=%r", str(error))
    cache.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(final)
    staged.mkdir()
    try:
        commit_folder(staged, final, _write(config, documents, staged))
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    corpus = open_corpus(final)
    logger.info("event=corpus_ready documents=%d tokens=%d", corpus.documents, corpus.tokens)
    return corpus


def open_corpus(path: Path) -> Corpus:
    """Open a committed corpus and check its hashes.

    Raises:
        IntegrityError: it is not what its manifest says.
    """
    manifest = verify_folder(path)
    blocks = [TokenBlocks.open(path / name) for name in (TRAIN, VALIDATION)]
    return Corpus(path, manifest, TextProcessor.load(path), *blocks)


def _digest(config: CorpusConfig, documents: Documents) -> str:
    tokenizer = config.tokenizer.model_dump()
    if config.tokenizer.path is not None:
        tokenizer = {"sha256": _tokenizer_hash(Path(config.tokenizer.path))}
    decides = {
        "format": FORMAT,
        "documents": documents.identity,
        "tokenizer": tokenizer,
        "block_size": config.block_size,
        "seed": config.spec.seed,
        "validation_fraction": config.spec.validation_fraction,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _tokenizer_hash(folder: Path) -> str:
    if not (folder / TOKENIZER).is_file():
        raise InputError(
            f"tokenizer.path: {folder} holds no {TOKENIZER}. Give a folder with one, or leave path "
            "out to train a tokenizer."
        )
    return sha256_file(folder / TOKENIZER)


def _write(config: CorpusConfig, documents: Documents, folder: Path) -> dict[str, Any]:
    """Write the tokenizer and both splits; return the manifest."""
    held_out, sample = _survey(config, documents)
    processor = _processor(config, sample)
    processor.save(folder)
    shape = (config.block_size, processor.vocab_size)
    empty = 0
    with (
        BlockWriter(folder / TRAIN, *shape) as train,
        BlockWriter(folder / VALIDATION, *shape) as validation,
    ):
        for texts in _batches(documents):
            for text, ids in zip(texts, processor.encode(texts), strict=True):
                if ids:
                    (validation if held_out.has(text) else train).add(ids)
                empty += not ids
    rejected = {**documents.rejected, **({"no tokens": empty} if empty else {})}
    if rejected:
        logger.warning("event=left_out source=%s reasons=%s", config.spec.source, rejected)
    return {
        "kind": "corpus",
        "format": FORMAT,
        "builder": f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        "config": config.model_dump(mode="json"),
        "source": documents.identity,
        "tokenizer_sha256": sha256_file(folder / TOKENIZER),
        "vocab_size": processor.vocab_size,
        "block_size": config.block_size,
        "documents": {"train": train.documents, "validation": validation.documents},
        "tokens": {"train": train.tokens, "validation": validation.tokens},
        "rejected": rejected,
    }


def _processor(config: CorpusConfig, sample: list[str]) -> TextProcessor:
    settings = config.tokenizer
    if settings.path is not None:
        processor = TextProcessor.load(settings.path)
        processor.require_our_numbers()
        processor.max_length = config.block_size
        return processor
    return TextProcessor.train(
        sample, settings.vocab_size, settings.type, config.block_size, settings.lowercase
    )


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Which documents are for validation: a share by hash, never none and never all."""

    seed: int
    share: float
    least: bytes
    greatest: bytes

    def has(self, text: str) -> bool:
        place = rank(self.seed, text)
        if place in (self.least, self.greatest):
            return place == self.least
        return int.from_bytes(place[:8], "big") < self.share * 2**64


def _survey(config: CorpusConfig, documents: Documents) -> tuple[_HeldOut, list[str]]:
    """Read all documents once: fix the split, collect what the tokenizer learns from."""
    spec = config.spec
    least, greatest, room = b"\xff" * 16, b"", TOKENIZER_CHARACTERS
    sample: list[str] = []
    for text in documents:
        place = rank(spec.seed, text)
        least, greatest = min(least, place), max(greatest, place)
        if room > 0:
            sample.append(text)
            room -= len(text)
    if least >= greatest:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in documents.rejected.items())
        raise InputError(
            f"{spec.source}: needs at least two different documents, one to learn from and one for "
            f"validation; left out: {reasons or 'nothing'}."
        )
    return _HeldOut(spec.seed, spec.validation_fraction, least, greatest), sample


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == DOCUMENTS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
