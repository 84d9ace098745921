"""``prepare_labelled``: labelled rows with their tokenizer, committed as one folder.

The counterpart of ``corpus`` for labelled rows: the folder is named by the digest of everything
that determines its content. Texts and files of pictures are Parquet, arrays safetensors.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from orchestrator.data.corpora.manifests import CutTags, RowsManifest, read_as
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.processors.readings import answer_ids
from orchestrator.data.processors.text import TextProcessor, chosen_tokenizer
from orchestrator.data.processors.unknown import unknown_share
from orchestrator.data.rows.forms.texts import TextForm
from orchestrator.data.rows.guesses import guess_classes
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage import commit_folder, sha256_file, temporary_sibling, verify_folder

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation")
PICTURE = "picture"
"""Column of the content of files of pictures."""


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """Prepared labelled rows.

    Attributes:
        path: Its folder.
        manifest: Counts, hashes and the config they were built with.
        processor: Its tokenizer, or the processor that turns pictures into such images.
        train: Rows to learn from.
        validation: Rows to measure on.
    """

    path: Path
    manifest: RowsManifest
    processor: TextProcessor | ImageProcessor
    train: Rows
    validation: Rows

    @property
    def modality(self) -> str:
        """Modality of the rows: text or vision."""
        return self.manifest.modality

    @property
    def documents(self) -> int:
        """Number of rows of both splits."""
        return len(self.train) + len(self.validation)

    @property
    def tokens(self) -> int:
        """Number of tokens; rows are not counted in tokens."""
        return 0

    @property
    def unknown_share(self) -> float | None:
        """Share of tokens that the tokenizer does not know; None for images."""
        return self.manifest.unknown_share

    @property
    def label_names(self) -> tuple[str, ...]:
        """Name of each class, tag or label; numbers have none."""
        return self.manifest.label_names

    @property
    def form(self) -> LabelForm:
        """The form of the label of a row."""
        return FORMS[self.manifest.labels]

    def unigram_entropy(self) -> float:
        """Return the loss of a model that knows only the distribution of the labels.

        In nats per class, per tag, per label that may be present, or per token of a text; for
        numbers, the mean squared distance to the mean.
        """
        if isinstance(self.form, TextForm) and isinstance(self.processor, TextProcessor):
            written = (self.form.written(split) for split in (self.train, self.validation))
            seen, asked = (np.concatenate(answer_ids(self.processor, each)) for each in written)
            return guess_classes(seen, asked)[0]
        size = len(self.label_names)
        return self.form.guess(self.train.labels, self.validation.labels, size)


def prepare_labelled(
    config: CorpusConfig,
    cache_dir: str | Path,
    form: LabelForm = CLASSES,
    pictures: ImageProcessor | None = None,
) -> LabelledCorpus:
    """Prepare labelled rows, or open them if that was done before.

    Args:
        config: Source, tokenizer and longest row in tokens (``block_size``).
        cache_dir: They are committed below it as ``rows-<digest>``.
        form: The form of the label of a row.
        pictures: Processor of files of pictures; None: the model reads none.

    Raises:
        InputError: The source is missing or cannot be split, or is not what the model reads.
    """
    cache = Path(cache_dir)
    task = load_task(config.data, cache, form)
    _require_read(config, task.train, pictures)
    cache.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(cache / "rows-new")
    staged.mkdir()
    try:
        written = _write(config, task, form, staged, pictures)
        later = ("cut", "notes", "unknown_share")  # fields of later versions
        left_out = {"files"} | {name for name in later if not getattr(written, name)}
        stored = written.model_dump(mode="json", exclude=left_out)
        final = cache / f"rows-{_digest(staged, stored)}"
        if not _is_whole(final):
            commit_folder(staged, final, stored)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return open_labelled(final)


def _require_read(config: CorpusConfig, rows: Rows, pictures: ImageProcessor | None) -> None:
    """Refuse rows that the model does not read.

    Raises:
        InputError: They are sounds, or pictures for a model of texts, or the reverse.
    """
    if rows.sounds is not None:
        raise InputError(
            f"{config.title}: labelled sounds are learned by finetune. Pre-training reads sounds "
            "with their texts (samples of type transcripts)."
        )
    if rows.modality != "image" and pictures is not None:
        raise InputError(f"{config.title}: the rows are texts, and the model reads pictures.")
    if rows.pictures is not None and pictures is None:
        raise InputError(
            f"{config.title}: the rows are files of pictures, which the model does not read. Use a "
            "patch part in model.embedding.parts."
        )


def _is_whole(path: Path) -> bool:
    if not path.is_dir():
        return False
    try:
        verify_folder(path)
    except IntegrityError as error:
        logger.warning("event=damaged_rows_made_again reason=%r", str(error))
        return False
    return True


def open_labelled(path: Path) -> LabelledCorpus:
    """Open committed rows and check their hashes.

    Raises:
        IntegrityError: They do not match their manifest.
    """
    manifest = read_as(RowsManifest, verify_folder(path), path)
    images = manifest.modality == "vision"
    processor = ImageProcessor.load(path) if images else TextProcessor.load(path)
    form = FORMS[manifest.labels]
    train, validation = (_read(path, split, form) for split in SPLITS)
    return LabelledCorpus(path, manifest, processor, train, validation)


def _write(
    config: CorpusConfig,
    task: TaskData,
    form: LabelForm,
    folder: Path,
    pictures: ImageProcessor | None,
) -> RowsManifest:
    processor = pictures if task.train.pictures else _processor(config, task, form)
    assert processor is not None
    processor.save(folder)
    for split in SPLITS:
        rows = task.split(split)
        if rows.images is not None:
            save_file({"images": rows.images, "labels": rows.labels}, folder / _file(split, True))
        else:
            content = rows.texts if rows.pictures is None else rows.pictures
            name = "text" if rows.pictures is None else PICTURE
            columns = {name: content, "label": list(rows.labels)}
            if rows.pairs is not None:
                columns["pair"] = rows.pairs
            pq.write_table(pa.table(columns), folder / _file(split, False), compression="zstd")
    return RowsManifest(
        builder=f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        config=config,
        modality="vision" if task.train.modality == "image" else "text",
        labels=form.name,
        label_names=tuple(task.label_names),
        rows={split: len(task.split(split)) for split in SPLITS},
        rejected=task.rejected,
        cut=_cut(processor, task, form),
        notes=task.notes,
        unknown_share=_unknown_share(processor, form, task.train),
    )


def _cut(
    processor: TextProcessor | ImageProcessor, task: TaskData, form: LabelForm
) -> CutTags | None:
    """Count the words whose tags are lost: beyond block_size, or without a token."""
    if not form.tagged or not isinstance(processor, TextProcessor):
        return None
    rows = words = 0
    for split in SPLITS:
        part = task.split(split)
        _, starts = processor.word_arrays(part.words)
        lost = np.asarray([len(tags) for tags in part.labels]) - (starts >= 0).sum(axis=1)
        rows, words = rows + int((lost > 0).sum()), words + int(lost.sum())
    if words:
        logger.warning("event=rows_cut rows=%d words=%d", rows, words)
    return CutTags(rows=rows, words=words)


def _digest(folder: Path, manifest: object) -> str:
    """Return the hash of all files and of the manifest, which names the folder."""
    hashes = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
    text = json.dumps({"files": hashes, "manifest": manifest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor(
    config: CorpusConfig, task: TaskData, form: LabelForm
) -> TextProcessor | ImageProcessor:
    rows = task.train
    if rows.images is not None:
        channels, *size = rows.images.shape[1:]
        plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
        return ImageProcessor(size=(size[0], size[1]), **plain)
    return chosen_tokenizer(config, form.texts(rows))


def _unknown_share(
    processor: TextProcessor | ImageProcessor, form: LabelForm, rows: Rows
) -> float | None:
    if not isinstance(processor, TextProcessor):
        return None
    texts = form.texts(rows)
    return unknown_share(processor, Rows(texts, None, np.zeros(len(texts))))


def _file(split: str, images: bool) -> str:
    return f"{split}.safetensors" if images else f"{split}.parquet"


def _read(path: Path, split: str, form: LabelForm) -> Rows:
    if (path / _file(split, True)).is_file():
        arrays = load_file(path / _file(split, True))
        return Rows([], None, arrays["labels"], arrays["images"])
    table = pq.read_table(path / _file(split, False))
    found = {name: table[name].to_pylist() for name in table.column_names}
    labels = form.stack(found["label"])
    return Rows(found.get("text", []), found.get("pair"), labels, pictures=found.get(PICTURE))
