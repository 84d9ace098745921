"""One small case per task kind and modality: rows in a file, and a package with a head for it."""

import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orchestrator.data.media.audio import AudioProcessor
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import TaskData
from orchestrator.data.sources.digits import png
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.tasks.base import AnyTask, HeadOptions, task_class, task_for, tasks
from orchestrator.zoo import Package, Zoo
from orchestrator.zoo.suite import SUITE_FILE, Exam, Suite

HEAD = "answers"
MAX_LENGTH = 24
ROWS = 72
ANIMALS, TOOLS = ("cat", "dog", "cow", "hen"), ("saw", "axe", "drill", "file")
FILLER = ("the", "one", "near", "under", "with", "has", "some", "of")

FILES = {"image": ".png", "audio": ".wav"}
"""Suffixes of the files of rows that are not texts."""
MEDIA = "media"
"""Folder of such files."""

Row = dict[str, object]


@dataclass(frozen=True)
class Case:
    """A task kind on rows of one modality.

    Attributes:
        name: What the matrix calls it.
        kind: The task kind.
        source: A builtin, where the rows are not written to a file.
        modality: ``text``, ``pair``, ``image`` or ``audio``.
        decoder: Whether a decoder writes what an encoder reads.
    """

    name: str
    kind: str
    source: str | None = None
    modality: str = "text"
    decoder: bool = False

    @property
    def registered(self) -> bool:
        """Whether this release has the kind."""
        return self.kind in tasks.names()


CASES = (
    Case("classification, text", "classification"),
    Case("classification, pair", "classification", modality="pair"),
    Case("classification, image", "classification", "builtin:digits", "image"),
    Case("classification, picture", "classification", modality="image"),
    Case("classification, audio", "classification", modality="audio"),
    Case("multilabel", "multilabel"),
    Case("tags", "tags"),
    Case("regression", "regression"),
    Case("similarity", "similarity", modality="pair"),
    Case("question_answering", "question_answering"),
    Case("multiple_choice", "multiple_choice"),
    Case("generation", "generation"),
    Case("transcription", "transcription", modality="audio"),
    Case("transcription, decoder", "transcription", modality="audio", decoder=True),
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
        "question_answering": {
            "question": "name",
            "context": text,
            "answers": [
                {"text": name, "answer_start": text.index(name)} for name in names if name in words
            ],
        },
        "multiple_choice": {"text": text, "choices": ["animal", "tool"], "label": index % 2},
        "generation": {"prompt": text, "answer": ("animal", "tool")[index % 2]},
    }
    if case.modality in FILES:
        name = f"{MEDIA}/{index}{FILES[case.modality]}"
        said = "text" if case.kind == "transcription" else "label"
        return {"path": name, said: "ab"[index % 2]}
    row = rows[case.kind]
    return {**row, "text_b": second} if case.modality == "pair" else row


def data_of(case: Case, folder: Path) -> DatasetSpec:
    """Write the rows of a case, and return where they are."""
    if case.source is not None:
        return DatasetSpec(source=case.source, max_rows=400)
    if case.modality in FILES:
        (folder / MEDIA).mkdir()
        for index in range(ROWS):
            write = write_tone if case.modality == "audio" else write_picture
            write(folder / MEDIA / f"{index}{FILES[case.modality]}", index)
    path = folder / f"{case.name.replace(', ', '_')}.jsonl"
    rows = [make_row(case, index) for index in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return DatasetSpec(source=f"files:{path}", validation_fraction=0.2)


def load(case: Case, spec: DatasetSpec) -> TaskData:
    """Read the rows of a case in the form of its kind."""
    return load_task(spec, form=task_class(case.kind).form())


def write_picture(path: Path, index: int) -> None:
    """Write 8 x 8 pixels whose upper or lower half is bright."""
    pixels = np.random.default_rng(index).integers(0, 60, (8, 8))
    pixels[4 * (index % 2) : 4 * (index % 2) + 4] += 180
    path.write_bytes(png(pixels.astype(np.uint8)))


def write_tone(path: Path, index: int) -> None:
    """Write a beep whose pitch tells which letter it is."""
    seconds = np.arange(2400) / 8000
    noise = np.random.default_rng(index).normal(0, 0.02, len(seconds))
    beep = 0.5 * np.sin(2 * np.pi * (400, 1800)[index % 2] * seconds) + noise
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((beep * 32767).astype("<i2").tobytes())


def processor_of(case: Case) -> TextProcessor | ExampleProcessor | None:
    """Return the processor of a case; images of a builtin need none."""
    if case.source is not None:
        return None
    if case.modality == "image":
        return ExampleProcessor(picture=ImageProcessor.of_family("vit", side=8, channels=1))
    texts = [" ".join((*FILLER, *ANIMALS, *TOOLS, "animal", "tool", "name"))] * 3
    kind = "characters" if case.modality == "audio" else "wordpiece"
    text = TextProcessor.train(texts, 300, kind, max_length=MAX_LENGTH)
    if case.modality == "audio":
        return ExampleProcessor(text, sound=AudioProcessor(mel_bins=16, rate=8000))
    return text


BLOCKS: dict[str, object] = {
    "type": "transformer",
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.0,
}
WORDS: dict[str, object] = {"parts": ["word", "pos", "seg"], "dropout": 0.0}
SPEECH: dict[str, object] = {
    "parts": [{"type": "speech", "mel_bins": 16, "kernels": [3], "strides": [2]}, "sinusoidalpos"],
    "layernorm": False,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}
DECODED: dict[str, object] = {"parts": ["word", "sinusoidalpos"], "dropout": 0.0}
PATCHES: dict[str, object] = {
    "parts": [{"type": "patch", "image_size": 8, "patch_size": 2, "channels": 1}, "pos"],
    "layernorm": False,
    "dropout": 0.0,
}


def parts_of(case: Case, vocab_size: int) -> dict[str, object]:
    """Return the config of a small model without the head of the task, if that is made new."""
    base = {"hidden_size": 16, "vocab_size": vocab_size, "encoder": BLOCKS}
    if case.modality == "image":
        return {**base, "max_position_embeddings": 17, "embedding": PATCHES}
    base |= {"max_position_embeddings": MAX_LENGTH, "embedding": WORDS}
    if case.kind == "generation":
        return {**base, "encoder": {**BLOCKS, "mask": "causal"}, "target": "lm"}
    if case.modality == "audio":
        base |= {"embedding": SPEECH}
    if case.kind == "transcription":
        written = {"target_embedding": DECODED, "decoder": BLOCKS, "target": "lm"}
        base |= written if case.decoder else {"target": "ctc"}
    return base


def model_of(case: Case) -> tuple[dict[str, object], TextProcessor | ExampleProcessor | None]:
    """Return the config of a model and its processor."""
    processor = processor_of(case)
    text = processor.text if isinstance(processor, ExampleProcessor) else processor
    return parts_of(case, 8 if text is None else text.vocab_size), processor


def task_of(case: Case, data: TaskData, head: str = HEAD) -> AnyTask:
    """Return the task that the rows ask for."""
    parts, _ = model_of(case)
    own = ModelConfig.model_validate(parts) if "target" in parts else None
    return task_for(case.kind, data, head, own)


def commit(zoo: Zoo, case: Case, task: AnyTask | None, name: str, seed: int = 3) -> Package:
    """Commit a random model for a case, with a head and a suite if there is a task."""
    torch.manual_seed(seed)
    parts, processor = model_of(case)
    if "target" not in parts:
        new = {"type": "cls", "num_labels": 2}
        head = new if task is None else task.target(HeadOptions(dropout=0.0)).model_dump()
        parts["target"] = [head]
    config = ModelConfig.model_validate(parts)
    modalities = {"image": "vision", "audio": "audio"}
    described = {
        "kind": case.kind,
        "modality": modalities.get(case.modality, "text"),
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
