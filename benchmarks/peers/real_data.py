"""Real texts, images and sounds for the benchmark of selection: corpora, history, targets.

A target has the rows of one seed: its own training and validation rows, drawn from the source's
training rows, and the source's test rows. Corpora and history sets are other sources, or rows of a
source that no target has.
"""

import gzip
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from orchestrator.arrays import AnyArray

TEXTS: Final = {
    "news": "cl_text5/ag",
    "reviews": "cl_text5/yelp",
    "encyclopedia": "cl_text5/dbpedia",
    "questions": "cl_text5/yahoo",
    "mails": "mail_spam/wave1",
}
"""Corpus name → folder; the training rows alone are read."""
HISTORY: Final = {
    "mr": "cl_sentences/mr",
    "mpqa": "cl_sentences/mpqa",
    "ag": "cl_text5/ag",
    "dbpedia": "cl_text5/dbpedia",
}
"""Benchmark sets of the texts."""
DIGITS: Final = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TARGET_SPEAKERS: Final = ("theo", "nicolas")
CORPUS_SPEAKER: Final = "yweweler"


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        source: Folder of the texts, or images, or sounds.
        modality: text, image or audio.
        rows: Training, validation and test rows.
        task: Kind of the task.
    """

    source: str
    modality: str = "text"
    rows: tuple[int, int, int] = (256, 240, 600)
    task: str = "classification"


LARGE: Final = "trec-1024"
"""Target with enough rows for a published checkpoint."""
TARGETS: Final[Mapping[str, Target]] = {
    "trec": Target("cl_sentences/trec"),
    "subj": Target("cl_sentences/subj"),
    "conll03": Target("conll03_cf", rows=(384, 160, 400), task="tags"),
    "mnist": Target("mnist10k", "image", (256, 240, 1000)),
    "spoken": Target("fsdd_speakers_a", "audio", (192, 160, 400)),
    LARGE: Target("cl_sentences/trec", rows=(1024, 400, 500)),
    "cr": Target("cl_sentences/cr"),
    "amazon": Target("cl_text5/amazon"),
    "fashion": Target("fashion900", "image", (256, 240, 300)),
}
OTHERS: Final = ("cr", "amazon", "fashion")
"""Targets that were recorded after the rules of selection were made on the others."""


def corpora(folder: Path, data: Path) -> dict[str, str]:
    """Write the images and the table of sounds; return corpus name → source."""
    sources = {name: f"files:{data / place}" for name, place in TEXTS.items()}
    sources |= {"docstrings": "builtin:pydoc", "morse": "builtin:morse"}
    digits = load_digits()
    write_images(
        folder / "digits", np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target
    )
    write_images(folder / "fashion", *read_idx(data / "fashion900", "train"))
    sources |= {name: f"files:{folder / name}" for name in ("digits", "fashion")}
    rows = [(path, DIGITS[digit]) for path, digit in _recordings(data, (CORPUS_SPEAKER,))]
    sources["speech"] = f"files:{_table(folder / 'speech.tsv', ('path', 'text'), rows)}"
    return sources


def history(folder: Path, data: Path) -> dict[str, str]:
    """Write the benchmark sets, as large as the targets; return name → source."""
    found = {}
    for name, place in HISTORY.items():
        target = Target(place, rows=(256, 200, 200))
        found[name] = _texts(folder / "history" / name, data / place, target, 0)
    return found


def target_rows(folder: Path, data: Path, name: str, seed: int) -> str:
    """Write the rows of one target and seed; return their source."""
    target, place = TARGETS[name], folder / "targets" / f"{name}-{seed}"
    if target.modality == "text":
        return _texts(place, data / target.source, target, seed)
    train, validation, test = target.rows
    random = np.random.default_rng(seed)
    if target.modality == "audio":
        rows = _recordings(data, TARGET_SPEAKERS)
        rows = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
        drawn = [rows[test:][at] for at in random.permutation(len(rows) - test)]
        cut = {
            "train": drawn[:train],
            "validation": drawn[train:][:validation],
            "test": rows[:test],
        }
        for split, part in cut.items():
            _table(place / f"{split}.tsv", ("path", "label"), part)
        return f"files:{place}"
    images, labels = read_idx(data / target.source, "train")
    order = random.permutation(len(labels))
    write_images(place / "train", images[order[:train]], labels[order[:train]])
    held = order[train : train + validation]
    write_images(place / "validation", images[held], labels[held])
    images, labels = read_idx(data / target.source, "test")
    write_images(place / "test", images[:: len(images) // test], labels[:: len(images) // test])
    return f"files:{place}"


def _texts(place: Path, source: Path, target: Target, seed: int) -> str:
    """Rows of a folder of TSV files: drawn from train, the first ones of dev and test."""
    random = np.random.default_rng(seed)
    for split, count in zip(("train", "dev", "test"), target.rows, strict=True):
        head, *lines = (source / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        chosen = random.permutation(len(lines))[:count] if split != "test" else range(count)
        text = "\n".join([head, *(lines[at] for at in chosen if at < len(lines))])
        _write(place / f"{split}.tsv", f"{text}\n")
    labels = source / "labels.txt"
    if labels.is_file():
        _write(place / "labels.txt", labels.read_text(encoding="utf-8"))
    return f"files:{place}"


def _recordings(data: Path, speakers: Sequence[str]) -> list[tuple[str, int]]:
    files = sorted((data / "fsdd_speakers_a" / "recordings").glob("*.wav"))
    return [(str(f), int(f.name[0])) for f in files if f.stem.split("_")[1] in speakers]


def _table(path: Path, columns: tuple[str, str], rows: Sequence[tuple[str, object]]) -> Path:
    _write(path, "\n".join("\t".join(map(str, row)) for row in [columns, *rows]) + "\n")
    return path


def read_idx(folder: Path, split: str) -> tuple[AnyArray, AnyArray]:
    """Images ``[n, 28, 28]`` and labels ``[n]`` of a folder in MNIST's format."""
    raw = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    _, count, height, width = struct.unpack(">4I", raw[:16])
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(count, height, width)
    raw = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    return images, np.frombuffer(raw, np.uint8, offset=8)


def write_images(folder: Path, images: AnyArray, labels: AnyArray) -> None:
    """One PNG file per image, in a folder per class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{number:05}.png"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def _write(path: Path, text: str) -> None:
    """Write a file unless it is there with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
