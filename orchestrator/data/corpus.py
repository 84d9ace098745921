"""``prepare_corpus``: documents to a tokenizer and packed blocks, committed as one folder.

The folder is named by the digest of everything that decides its content, so asking twice costs one
check of the hashes. Documents are split into train and validation by the hash of their text: equal
documents are on the same side.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.blocks import TokenBlocks
from orchestrator.data.borders import SplitWriter
from orchestrator.data.documents import Documents, open_documents
from orchestrator.data.processors import TOKENIZER, TextProcessor
from orchestrator.data.sentences import encode_sentences
from orchestrator.data.spec import SPECIAL_TOKENS, CorpusConfig
from orchestrator.data.splitting import rank
from orchestrator.data.subwords import add_sentinels, sentinel_ids
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import commit_folder, sha256_file, temporary_sibling, verify_folder

logger = logging.getLogger(__name__)

Sources = list[Documents]

FORMAT = 2
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
        words = slice(first, size - len(sentinel_ids(self.processor.tokenizer)))
        seen = self.train.counts(size)[words] + 1
        asked = self.validation.counts(size)[words]
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
    documents = [open_documents(spec, cache) for spec in config.specs]
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
    parts = {split: tuple(count) for split, count in manifest["blocks"].items()}
    train = TokenBlocks.open(path / TRAIN, parts["train"])
    validation = TokenBlocks.open(path / VALIDATION, parts["validation"])
    return Corpus(path, manifest, TextProcessor.load(path), train, validation)


def _digest(config: CorpusConfig, documents: Sources) -> str:
    tokenizer = config.tokenizer.model_dump()
    if config.tokenizer.path is not None:
        tokenizer = {"sha256": _tokenizer_hash(Path(config.tokenizer.path))}
    decides = {
        "format": FORMAT,
        "documents": [each.identity for each in documents],
        "sentences": config.sentences,
        "tokenizer": tokenizer,
        "block_size": config.block_size,
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


def _write(config: CorpusConfig, documents: Sources, folder: Path) -> dict[str, Any]:
    """Write the tokenizer and both splits, source after source; return the manifest."""
    held_out, sample = _survey(config, documents)
    processor = _processor(config, sample)
    processor.save(folder)
    shape = (config.block_size, processor.vocab_size)
    rejected: Counter[str] = Counter()
    blocks: dict[str, list[int]] = {"train": [], "validation": []}
    with (
        SplitWriter(folder / TRAIN, *shape) as train,
        SplitWriter(folder / VALIDATION, *shape) as validation,
    ):
        for source in documents:
            for texts in _batches(source):
                found = encode_sentences(processor.tokenizer, texts, config.sentences)
                for text, (ids, sentences) in zip(texts, found, strict=True):
                    if ids:
                        writer = validation if held_out.has(text) else train
                        writer.add_document(ids, sentences)
                    rejected["no tokens"] += not ids
            rejected.update(source.rejected)
            for split, writer in (("train", train), ("validation", validation)):
                blocks[split].append(writer.fill() - sum(blocks[split]))
    return _manifest(config, documents, folder, processor) | {
        "documents": {"train": train.documents, "validation": validation.documents},
        "tokens": {"train": train.tokens, "validation": validation.tokens},
        "blocks": blocks,
        "rejected": _warned(config, {reason: n for reason, n in rejected.items() if n}),
    }


def _manifest(
    config: CorpusConfig, documents: Sources, folder: Path, processor: TextProcessor
) -> dict[str, Any]:
    return {
        "kind": "corpus",
        "format": FORMAT,
        "builder": f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        "config": config.model_dump(mode="json"),
        "source": [each.identity for each in documents],
        "tokenizer_sha256": sha256_file(folder / TOKENIZER),
        "vocab_size": processor.vocab_size,
        "block_size": config.block_size,
    }


def _warned(config: CorpusConfig, rejected: dict[str, int]) -> dict[str, int]:
    if rejected:
        names = [spec.source for spec in config.specs]
        logger.warning("event=left_out source=%s reasons=%s", ", ".join(names), rejected)
    return rejected


def _processor(config: CorpusConfig, sample: list[str]) -> TextProcessor:
    settings = config.tokenizer
    if settings.path is not None:
        processor = TextProcessor.load(settings.path)
        processor.require_our_numbers()
        processor.max_length = config.block_size
        return processor
    learnt = settings.vocab_size - settings.sentinels
    processor = TextProcessor.train(
        sample, learnt, settings.type, config.block_size, settings.lowercase
    )
    add_sentinels(processor.tokenizer, settings.sentinels)
    return processor


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


def _survey(config: CorpusConfig, documents: Sources) -> tuple[_HeldOut, list[str]]:
    """Read all documents once: fix the split, collect what the tokenizer learns from."""
    spec = config.specs[0]
    least, greatest = b"\xff" * 16, b""
    sample: list[str] = []
    for source in documents:
        room = TOKENIZER_CHARACTERS // len(documents)
        for text in source:
            place = rank(spec.seed, text)
            least, greatest = min(least, place), max(greatest, place)
            if room > 0:
                sample.append(text)
                room -= len(text)
    if least >= greatest:
        left_out = sum((source.rejected for source in documents), Counter())
        reasons = ", ".join(f"{n} × {reason}" for reason, n in left_out.items())
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
