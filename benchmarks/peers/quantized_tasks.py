"""Four real tasks and their trained models: pairs, topics, names, images.

Rows come from public sets that lie in one folder; none is in this project. Every model is trained
by the worker of the fine-tuning job, in this process: texts from all-MiniLM-L6-v2, images from a
small ViT that the product pre-trained on other images. What the work folder has already is not
trained again.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from orchestrator.cluster.context import Worker
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.inputs import job_of, resolve
from orchestrator.finetuning.results import Summary
from orchestrator.finetuning.runner import EXPORT, EXPORTED, STAGE
from orchestrator.finetuning.worker import finetune
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo, commit_once
from peers.real_data import read_idx, write_images
from peers.tiny_zoo import Recipe, config_of, pretrain_one
from peers.whole_jobs import import_minilm

VIT: Final = Recipe(
    "fashion",
    {
        "type": "transformer", "num_layers": 4, "num_heads": 4, "intermediate_size": 768,
        "dropout": 0.0, "norm_position": "pre",
    },
    {"type": "cls", "num_labels": 10, "pooling": "mean", "dropout": 0.0},
    ({"type": "patch", "image_size": 28, "patch_size": 7, "channels": 1}, "pos"),
    "", steps=60, rate=1e-3, model={"hidden_size": 192}, side=28,
)  # fmt: skip
LOWER: Final = ["embedding", *(f"encoder.layers.{layer}" for layer in range(3))]
"""Half of the encoder, which stays as it was published: that halves the cost of training."""


@dataclass(frozen=True)
class RealTask:
    """One task.

    Attributes:
        title: What is decided, for the page.
        source: Folder of the set.
        kind: Kind of the task.
        rows: Training, validation and test rows.
        train: Settings of the fine-tuning.
        length: Tokens of the timed text; None: images.
    """

    title: str
    source: str
    kind: str
    rows: tuple[int, int, int]
    train: dict[str, Any]
    length: int | None


TASKS: Final = {
    "pairs": RealTask(
        "pairs: does the headline belong to the news text?", "cl_text5/ag", "classification",
        (1500, 1000, 1000), {"epochs": 2, "max_length": 48, "freeze": LOWER}, 48,
    ),
    "topic": RealTask(
        "topic of a question, 10 classes", "cl_text5/yahoo", "classification",
        (1200, 1000, 700), {"epochs": 2, "max_length": 48, "freeze": LOWER}, 48,
    ),
    "names": RealTask(
        "names in news sentences (NER)", "conll03_cf", "tags",
        (3000, 1000, 1000), {"epochs": 3, "max_length": 64, "learning_rate": 2e-4}, 32,
    ),
    "digits": RealTask(
        "handwritten digits, 28 x 28 pixels", "mnist10k", "classification",
        (3000, 1000, 1000),
        {"epochs": 6, "learning_rate": 1e-3}, None,
    ),
}  # fmt: skip


def rows_of(name: str, folder: Path, data: Path) -> str:
    """Write the rows of a task unless they are there; return their source."""
    task, place = TASKS[name], folder / "rows" / name
    if not (place / "train.tsv").is_file() and not (place / "test").is_dir():
        {"pairs": _pairs, "digits": _digits}.get(name, _texts)(place, data / task.source, task)
    return f"files:{place}"


def trained(name: str, work: Path, data: Path) -> None:
    """Train the model of a task in this process and commit its package, unless it is there."""
    task, zoo = TASKS[name], Zoo(work / "zoo")
    if name in zoo.names():
        return
    config = FinetuneConfig.model_validate(
        {
            "run": {"dir": str(work / "runs"), "zoo": str(work / "zoo")},
            "package": import_minilm(zoo) if task.length else _vit(work, data),
            "output": name,
            "data": {"source": rows_of(name, work, data)},
            "task": task.kind,
            "train": {**task.train, "log_every_steps": 20},
            "tracking": {"tensorboard": False},
        }
    )
    with RunFolder.open(config, STAGE) as folder:
        inputs = resolve(config, zoo.get(config.package))
        given, rate = config.train.learning_rate, inputs.usual_rate
        if isinstance(given, float):
            rate = replace(rate, value=given)
        done = finetune(Worker.alone(folder.path), job_of(inputs, folder.path, rate)).result
        assert isinstance(done, Summary)
        (lesson,) = inputs.lessons
        commit_once(
            folder,
            name,
            kind="finetuned",
            parents=[inputs.package],
            task={
                "kind": task.kind,
                "modality": "text" if task.length else "image",
                "labels": {name: list(lesson.task.labels)},
                "max_length": config.train.max_length if task.length else None,
                "default": name,
            },
            metrics={},
            licence=None,
            write=lambda draft: _copy(folder.path / EXPORT, draft.path),
        )


def _copy(export: Path, package: Path) -> None:
    """Copy the files of a trained model."""
    for path in (path for pattern in EXPORTED for path in export.glob(pattern)):
        shutil.copyfile(path, package / path.name)


def _vit(work: Path, data: Path) -> str:
    """Pre-train the small ViT on other images; return its name."""
    name = "vit"
    if name not in Zoo(work / "zoo").names():
        place = work / "rows" / "fashion"
        write_images(place, *read_idx(data / "fashion900", "train"))
        pretrain_one(config_of(name, VIT, work, f"files:{place}"))
    return name


def _lines(source: Path, split: str) -> list[list[str]]:
    """Rows of a TSV file, without its head."""
    text = (source / f"{split}.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]


def _cut(source: Path, task: RealTask, seed: int = 0) -> dict[str, list[list[str]]]:
    """Rows of each split; validation rows come from the source's train and dev, shuffled."""
    rows = [*_lines(source, "train"), *_lines(source, "dev")]
    order = np.random.default_rng(seed).permutation(len(rows))
    train, validation, test = task.rows
    if len(rows) < train + validation:
        raise SystemExit(f"{source} has {len(rows)} rows for training and validation")
    drawn = [rows[at] for at in order[: train + validation]]
    tested = _lines(source, "test")
    order = np.random.default_rng(seed).permutation(len(tested))[:test]
    return {
        "train": drawn[:train],
        "dev": drawn[train:],
        "test": [tested[at] for at in order],
    }


def _texts(place: Path, source: Path, task: RealTask) -> None:
    for split, rows in _cut(source, task).items():
        _table(place / f"{split}.tsv", ("text_a", "label"), rows)
    if (source / "labels.txt").is_file():
        (place / "labels.txt").write_bytes((source / "labels.txt").read_bytes())


def _pairs(place: Path, source: Path, task: RealTask) -> None:
    """Every other news text gets the headline of another text of its topic."""
    for split, rows in _cut(source, task).items():
        found = []
        for topic in sorted({label for _, label in rows}):
            texts = [text for text, label in rows if label == topic]
            cut = [text.removeprefix("Title: ").split(" Text: ", 1) for text in texts]
            cut = [parts for parts in cut if len(parts) == 2]
            for at, (headline, text) in enumerate(cut):
                own = at % 2 == 0
                other = cut[(at + 1) % len(cut)][0]
                found.append([headline if own else other, text, "same" if own else "other"])
        order = np.random.default_rng(1).permutation(len(found))
        _table(place / f"{split}.tsv", ("text_a", "text_b", "label"), [found[at] for at in order])


def _digits(place: Path, source: Path, task: RealTask) -> None:
    train, validation, test = task.rows
    images, labels = read_idx(source, "train")
    order = np.random.default_rng(0).permutation(len(labels))
    for split, chosen in (("train", order[:train]), ("validation", order[train:][:validation])):
        write_images(place / split, images[chosen], labels[chosen])
    images, labels = read_idx(source, "test")
    order = np.random.default_rng(0).permutation(len(labels))[:test]
    write_images(place / "test", images[order], labels[order])


def _table(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join("\t".join(row) for row in [head, *rows])
    path.write_text(f"{text}\n", encoding="utf-8")
