"""One small case per task kind and modality: rows in a file, and a package with a head for it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import TaskData
from orchestrator.data.rows.tasks import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.tasks.base import AnyTask, HeadOptions, task_class, tasks
from orchestrator.zoo import Package, Zoo
from orchestrator.zoo.suite import SUITE_FILE, Exam, Suite

HEAD = "answers"
MAX_LENGTH = 24
ROWS = 72
ANIMALS, TOOLS = ("cat", "dog", "cow", "hen"), ("saw", "axe", "drill", "file")
FILLER = ("the", "one", "near", "under", "with", "has", "some", "of")

Row = dict[str, object]


@dataclass(frozen=True)
class Case:
    """A task kind on rows of one modality.

    Attributes:
        name: What the matrix calls it.
        kind: The task kind.
        source: A builtin, where the rows are not written to a file.
        modality: ``text``, ``pair`` or ``image``.
        options: Options of the kind.
    """

    name: str
    kind: str
    source: str | None = None
    modality: str = "text"
    options: dict[str, object] = field(default_factory=dict)

    @property
    def registered(self) -> bool:
        """Whether this release has the kind."""
        return self.kind in tasks.names()


CASES = (
    Case("classification, text", "classification"),
    Case("classification, pair", "classification", modality="pair"),
    Case("classification, image", "classification", "builtin:digits", "image"),
    Case("multilabel", "multilabel"),
    Case("tags", "tags"),
    Case("regression", "regression"),
    Case("similarity", "similarity", modality="pair"),
    Case("question_answering", "question_answering"),
    Case("multiple_choice", "multiple_choice"),
    Case("generation", "generation"),
    Case("transcription", "transcription"),
)


def make_row(case: Case, index: int) -> Row:
    """Return one row whose label follows from its words."""
    rng = np.random.default_rng(index)
    words = [str(word) for word in rng.choice(FILLER, 4)]
    names = (ANIMALS, TOOLS)[index % 2]
    words.insert(int(rng.integers(4)), str(names[int(rng.integers(4))]))
    text, tags = " ".join(words), ["B-NAME" if word in names else "O" for word in words]
    second = f"{rng.choice(ANIMALS if index % 2 else TOOLS)} {rng.choice(FILLER)}"
    rows: dict[str, Row] = {
        "classification": {"text": text, "label": ("animal", "tool")[index % 2]},
        "multilabel": {"text": text, "labels": ["tool"] if index % 2 else ["animal", "living"]},
        "tags": {"tokens": words, "tags": tags},
        "regression": {"text": text, "score": float(index % 2) + 0.01 * (index % 7)},
        "similarity": {"text": text, "score": float(index % 2)},
    }
    row = rows[case.kind]
    return {**row, "text_b": second} if case.modality == "pair" else row


def data_of(case: Case, folder: Path) -> DatasetSpec:
    """Write the rows of a case, and return where they are."""
    if case.source is not None:
        return DatasetSpec(source=case.source, max_rows=400)
    path = folder / f"{case.name.replace(', ', '_')}.jsonl"
    rows = [make_row(case, index) for index in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return DatasetSpec(source=f"files:{path}", validation_fraction=0.2)


def load(case: Case, spec: DatasetSpec) -> TaskData:
    """Read the rows of a case in the form of its kind."""
    return load_task(spec, form=task_class(case.kind).form())


def task_of(case: Case, labels: tuple[str, ...], head: str = HEAD) -> AnyTask:
    """Return the task with its labels."""
    kind = task_class(case.kind)
    return kind(kind.Config.model_validate({"type": case.kind, **case.options}), labels, head)


def text_parts(processor: TextProcessor) -> dict[str, object]:
    """Return the config of a small encoder of texts."""
    return {
        "hidden_size": 16,
        "vocab_size": processor.vocab_size,
        "max_position_embeddings": MAX_LENGTH,
        "embedding": {"parts": ["word", "pos", "seg"], "dropout": 0.0},
        "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.0},
    }


IMAGE_PARTS: dict[str, object] = {
    "hidden_size": 16,
    "max_position_embeddings": 17,
    "embedding": {
        "parts": [{"type": "patch", "image_size": 8, "patch_size": 2, "channels": 1}, "pos"],
        "layernorm": False,
        "dropout": 0.0,
    },
    "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.0},
}


def commit(zoo: Zoo, case: Case, task: AnyTask | None, name: str) -> Package:
    """Commit a random encoder for a case, with a head and a suite if there is a task."""
    torch.manual_seed(3)
    texts = [" ".join((*FILLER, *ANIMALS, *TOOLS))] * 3
    processor = (
        None if case.modality == "image" else TextProcessor.train(texts, 300, max_length=MAX_LENGTH)
    )
    parts = IMAGE_PARTS if processor is None else text_parts(processor)
    target = [] if task is None else [task.target(HeadOptions(dropout=0.0))]
    heads = [t.model_dump(mode="json") for t in target] or [{"type": "cls", "num_labels": 2}]
    config = ModelConfig.model_validate({**parts, "target": heads})
    described = {
        "kind": case.kind,
        "modality": "image" if processor is None else "text",
        "labels": {} if task is None else {task.head: list(task.labels)},
        "max_length": MAX_LENGTH,
    }
    producer = {"stage": "test", "job": "every-task"}
    with zoo.draft(name, kind="finetuned", producer=producer, task=described) as draft:
        write_model(draft.path, build_model(config), config)
        if processor is not None:
            processor.save(draft.path)
        if task is not None:
            exam = Exam(
                task=task.spec, status="unverified", reason="random weights",
                primary=task.primary.name,
            )  # fmt: skip
            path = draft.path / SUITE_FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            suite = Suite(default=task.head, exams={task.head: exam})
            path.write_text(suite.model_dump_json(), encoding="utf-8")
        return draft.commit()
