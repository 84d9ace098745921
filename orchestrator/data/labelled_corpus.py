"""``prepare_labelled``: labelled rows with their tokenizer, committed as one folder.

What ``corpus`` is for documents: named by the digest of everything that decides its content, the
same bytes for every worker. Texts are Parquet, images safetensors.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from orchestrator.data.chosen_tokenizer import chosen_tokenizer
from orchestrator.data.images import ImageProcessor
from orchestrator.data.processors import TextProcessor
from orchestrator.data.rows import Rows, TaskData
from orchestrator.data.spec import CorpusConfig
from orchestrator.data.tasks import load_task
from orchestrator.errors import InputError
from orchestrator.storage import commit_folder, sha256_file, temporary_sibling, verify_folder

FORMAT = 1
KIND = "labelled rows"
SPLITS = ("train", "validation")


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """Labelled rows made ready.

    Attributes:
        path: its folder.
        manifest: counts, hashes and the config it was made with.
        processor: its tokenizer, or what turns pictures into such images.
        train: rows to learn from.
        validation: rows to measure on.
    """

    path: Path
    manifest: dict[str, Any]
    processor: TextProcessor | ImageProcessor
    train: Rows
    validation: Rows

    @property
    def documents(self) -> int:
        """Number of rows of both splits."""
        return len(self.train) + len(self.validation)

    @property
    def tokens(self) -> int:
        """Number of tokens; rows are not counted in tokens."""
        return 0

    @property
    def label_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return tuple(self.manifest["label_names"])

    def unigram_entropy(self) -> float:
        """Return the loss in nats a row of knowing only how often classes occur."""
        size = len(self.label_names)
        seen = np.bincount(self.train.labels, minlength=size) + 1
        asked = np.bincount(self.validation.labels, minlength=size)
        return float(-(asked * np.log(seen / seen.sum())).sum() / asked.sum())


def prepare_labelled(config: CorpusConfig, cache_dir: str | Path) -> LabelledCorpus:
    """Make labelled rows ready, or open them where that has been done before.

    Args:
        config: source, tokenizer and longest row in tokens (``block_size``).
        cache_dir: they are committed below it as ``rows-<digest>``.

    Raises:
        InputError: the source is missing or cannot be split.
    """
    cache = Path(cache_dir)
    task = load_task(config.data, cache)
    cache.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(cache / "rows-new")
    staged.mkdir()
    try:
        written = _write(config, task, staged)
        final = cache / f"rows-{_digest(staged, written)}"
        if not final.is_dir():
            commit_folder(staged, final, written)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return open_labelled(final)


def open_labelled(path: Path) -> LabelledCorpus:
    """Open committed rows and check their hashes.

    Raises:
        IntegrityError: they are not what their manifest says.
    """
    manifest = verify_folder(path)
    images = manifest["modality"] == "vision"
    processor = ImageProcessor.load(path) if images else TextProcessor.load(path)
    train, validation = (_read(path, split, images) for split in SPLITS)
    return LabelledCorpus(path, manifest, processor, train, validation)


def _write(config: CorpusConfig, task: TaskData, folder: Path) -> dict[str, Any]:
    images = task.train.images is not None
    _processor(config, task).save(folder)
    for split in SPLITS:
        rows = task.split(split)
        if rows.images is not None:
            save_file({"images": rows.images, "labels": rows.labels}, folder / _file(split, True))
        else:
            columns = {"text": rows.texts, "label": rows.labels}
            if rows.pairs is not None:
                columns["pair"] = rows.pairs
            pq.write_table(pa.table(columns), folder / _file(split, False), compression="zstd")
    return {
        "kind": KIND,
        "format": FORMAT,
        "builder": f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        "config": config.model_dump(mode="json"),
        "modality": "vision" if images else "text",
        "label_names": list(task.label_names),
        "rows": {split: len(task.split(split)) for split in SPLITS},
        "rejected": task.rejected,
    }


def _digest(folder: Path, manifest: Mapping[str, Any]) -> str:
    """What is in the folder names it: files by their hashes, and the manifest."""
    hashes = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
    text = json.dumps({"files": hashes, "manifest": manifest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor(config: CorpusConfig, task: TaskData) -> TextProcessor | ImageProcessor:
    rows = task.train
    if rows.images is not None:
        channels, *size = rows.images.shape[1:]
        plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
        return ImageProcessor(size=(size[0], size[1]), **plain)
    return chosen_tokenizer(config, [*rows.texts, *(rows.pairs or ())])


def _file(split: str, images: bool) -> str:
    return f"{split}.safetensors" if images else f"{split}.parquet"


def _read(path: Path, split: str, images: bool) -> Rows:
    if images:
        arrays = load_file(path / _file(split, True))
        return Rows([], None, arrays["labels"], arrays["images"])
    table = pq.read_table(path / _file(split, False))
    pairs = table["pair"].to_pylist() if "pair" in table.column_names else None
    return Rows(table["text"].to_pylist(), pairs, table["label"].to_numpy())


def require_classes(corpus: LabelledCorpus, classes: int) -> None:
    """Refuse a head with another number of classes than the rows have.

    Raises:
        InputError: naming both.
    """
    found = len(corpus.label_names)
    if found != classes:
        raise InputError(
            f"the rows have {found} classes, the target has num_labels {classes}. Set num_labels "
            f"to {found}."
        )
