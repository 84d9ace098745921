"""``prepare_examples``: pictures, sounds and texts that belong together, committed as one folder.

The counterpart of ``corpus`` for examples: the folder is named by the digest of everything that
determines its content. The tokenizer is trained on the texts of the training split; the codes of
patches are found in its pictures.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.example_rows import Admission, Examples, ExampleWriter
from orchestrator.data.corpora.manifests import (
    ExamplesContent,
    ExamplesManifest,
    TokenizerFile,
    read_as,
)
from orchestrator.data.media.inputs import ModelInputs
from orchestrator.data.media.patch_codes import Codebook, patches_of
from orchestrator.data.processors.example_processor import ExampleProcessor, new_processor
from orchestrator.data.processors.text import TextProcessor, chosen_tokenizer
from orchestrator.data.processors.tokenizer_files import TOKENIZER
from orchestrator.data.samples.kinds import ExamplesConfig, MaskedPatchesConfig
from orchestrator.data.sources.contents import TRAIN, VALIDATION, Entry
from orchestrator.data.sources.lines import REPAIRED
from orchestrator.data.sources.opening import list_entries, split_entries
from orchestrator.data.spec import CorpusConfig, TokenizerConfig
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import commit_folder, sha256_file, temporary_sibling, verify_folder

logger = logging.getLogger(__name__)

SPLITS = (TRAIN, VALIDATION)
PATCHES_FOR_CODES = 20_000
PICTURES_PER_BATCH = 256
TEXTS_PER_BATCH = 4096


@dataclass(frozen=True, eq=False)
class ExampleCorpus:
    """Prepared examples.

    Attributes:
        path: Its folder.
        manifest: Counts, hashes and the config they were built with.
        processor: Its tokenizer, and the processor of its pictures or sounds.
        train: Examples to learn from.
        validation: Examples to measure on.
    """

    path: Path
    manifest: ExamplesManifest
    processor: ExampleProcessor
    train: Examples
    validation: Examples

    @property
    def modality(self) -> str:
        """Modality of the inputs: text alone, or vision or audio with text."""
        return self.manifest.modality

    @property
    def documents(self) -> int:
        """Number of examples of both splits."""
        return len(self.train) + len(self.validation)

    @property
    def tokens(self) -> int:
        """Number of tokens of their texts."""
        return self.manifest.tokens

    @property
    def unknown_share(self) -> float | None:
        """Share of tokens that the tokenizer does not know; None without texts."""
        return self.manifest.unknown / self.tokens if self.tokens else None

    def unigram_entropy(self) -> float | None:
        """Return the loss in nats of a model that knows only frequencies of codes or tokens.

        None if neither are predicted: pairs are contrasted.
        """
        if self.processor.codebook is not None:
            count = self._codes
        elif self.train.inputs.sound is not None:
            count = self._tokens
        else:
            return None
        seen, asked = count(self.train) + 1, count(self.validation)
        return float(-(asked * np.log(seen / seen.sum())).sum() / max(asked.sum(), 1))

    def _codes(self, split: Examples) -> IntArray:
        """Return the frequency of each code."""
        shape, codebook = self.train.inputs.picture, self.processor.codebook
        assert shape is not None
        assert codebook is not None
        pixels = _pixels(split, self.processor, shape.patches)
        codes = codebook.codes(pixels, shape.patch_size)
        return np.bincount(codes.ravel(), minlength=len(codebook.centers))

    def _tokens(self, split: Examples) -> IntArray:
        """Return the frequency of each token."""
        words = self.processor.words
        found = np.zeros(words.vocab_size, dtype=np.int64)
        for start in range(0, len(split), TEXTS_PER_BATCH):
            rows = np.arange(start, min(start + TEXTS_PER_BATCH, len(split)))
            ids = chain.from_iterable(words.encode(split.text(rows)))
            found += np.bincount(np.fromiter(ids, dtype=np.int64), minlength=len(found))
        return found


def prepare_examples(
    config: CorpusConfig, samples: ExamplesConfig, inputs: ModelInputs, cache_dir: str | Path
) -> ExampleCorpus:
    """Prepare examples, or open them if that was done before.

    Args:
        config: Source, tokenizer and longest text in tokens (``block_size``).
        samples: The sample kind.
        inputs: What the model reads.
        cache_dir: They are committed below it as ``examples-<digest>``.

    Raises:
        InputError: The source is missing, or nothing of it can be used.
    """
    cache = Path(cache_dir)
    entries = list_entries(config.data, samples.columns, cache)
    content = _content(config, samples, inputs, entries.identity())
    text = json.dumps(content.model_dump(mode="json"), sort_keys=True)
    final = cache / f"examples-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if final.is_dir():
        try:
            return open_examples(final)
        except IntegrityError as error:
            logger.warning("event=damaged_examples_made_again reason=%r", str(error))
    cache.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(final)
    staged.mkdir()
    try:
        splits = split_entries(config.data, entries)
        processor = new_processor(samples, inputs, _tokenizer(config, samples, splits))
        admission = Admission(entries, samples, inputs, processor, config.block_size)
        manifest = _write(config, content, staged, splits, admission)
        commit_folder(staged, final, manifest.model_dump(mode="json", exclude={"files"}))
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return open_examples(final)


def open_examples(path: Path) -> ExampleCorpus:
    """Open committed examples and check their hashes.

    Raises:
        IntegrityError: They do not match their manifest.
    """
    manifest = read_as(ExamplesManifest, verify_folder(path), path)
    inputs = manifest.inputs
    processor = ExampleProcessor.load(path, inputs)
    rate = 0 if processor.sound is None else processor.sound.rate
    train, validation = (
        Examples(path / f"{split}.arrow", inputs, rate, split == TRAIN) for split in SPLITS
    )
    return ExampleCorpus(path, manifest, processor, train, validation)


def _content(
    config: CorpusConfig, samples: ExamplesConfig, inputs: ModelInputs, identity: dict[str, object]
) -> ExamplesContent:
    """Return everything that determines the content of the folder."""
    tokenizer: TokenizerConfig | TokenizerFile = config.tokenizer
    if config.tokenizer.path is not None:
        tokenizer = TokenizerFile(sha256=sha256_file(Path(config.tokenizer.path) / TOKENIZER))
    names = ("type", "family", "rate", "max_seconds")
    settings = {name: getattr(samples, name) for name in names if hasattr(samples, name)}
    return ExamplesContent(
        source=identity,
        samples=settings,
        inputs=inputs,
        tokenizer=tokenizer,
        block_size=config.block_size,
        seed=config.data.seed,
        max_rows=config.data.max_rows,
        validation_fraction=config.data.validation_fraction,
        modality="vision" if inputs.picture else "audio" if inputs.sound else "text",
    )


def _tokenizer(
    config: CorpusConfig, samples: ExamplesConfig, splits: dict[str, list[Entry]]
) -> TextProcessor | None:
    if "text" not in samples.columns:
        return None
    texts = [text for entry in splits[TRAIN] for text in (entry.text, entry.pair) if text]
    return chosen_tokenizer(config, texts)


def _write(
    config: CorpusConfig,
    content: ExamplesContent,
    folder: Path,
    splits: dict[str, list[Entry]],
    admission: Admission,
) -> ExamplesManifest:
    """Write both splits and the processors; return the manifest."""
    rows: dict[str, int] = {}
    for split, found in splits.items():
        with ExampleWriter(folder / f"{split}.arrow") as writer:
            for entry in found:
                media = admission.media(entry)
                if media is not None:
                    writer.add(entry.text, entry.pair, media)
        rows[split] = writer.rows
    source, counts = config.data.source, admission.entries.rejected
    repaired = counts.pop(REPAIRED, 0)
    rejected = {reason: n for reason, n in counts.items() if n}
    if repaired:
        logger.warning("%s: %d × %s", source, repaired, REPAIRED)
    if rejected:
        logger.warning("event=examples_left_out source=%s reasons=%s", source, rejected)
    if not all(rows.values()):
        raise InputError(f"{source}: no usable examples for both splits ({rows}): {rejected}.")
    processor = admission.processor
    if isinstance(admission.samples, MaskedPatchesConfig):
        processor = _with_codes(config, folder, admission)
    processor.save(folder)
    return ExamplesManifest(
        **dict(content),
        builder=f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        rows=rows,
        tokens=admission.tokens,
        vocab_size=processor.vocab_size,
        rejected=rejected,
        repaired=repaired,
        unknown=admission.unknown,
        shortened=admission.shortened,
    )


def _with_codes(config: CorpusConfig, folder: Path, admission: Admission) -> ExampleProcessor:
    """Return the processors with codes of patches, found in the training pictures."""
    shape, processor = admission.inputs.picture, admission.processor
    assert shape is not None
    examples = Examples(folder / f"{TRAIN}.arrow", admission.inputs, 0, False)
    pixels = _pixels(examples, processor, shape.patches)
    patches = patches_of(pixels, shape.patch_size)
    codes = admission.inputs.codes
    codebook = Codebook.fit(patches.reshape(-1, patches.shape[-1]), codes, config.data.seed)
    return replace(processor, codebook=codebook)


def _pixels(
    examples: Examples, processor: ExampleProcessor, patches: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return equally spaced pictures of a split, with about ``PATCHES_FOR_CODES`` patches."""
    assert processor.picture is not None
    wanted = min(max(PATCHES_FOR_CODES // patches, 1), len(examples))
    chosen = np.linspace(0, len(examples) - 1, wanted).astype(np.int64)
    parts = [
        processor.picture.arrays(examples.pictures(chosen[start : start + PICTURES_PER_BATCH]))
        for start in range(0, wanted, PICTURES_PER_BATCH)
    ]
    return np.concatenate([part["pixel_values"] for part in parts])
