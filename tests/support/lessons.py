"""A small world for fine-tuning: an encoder in a zoo, and one labelled file of each form."""

import json

import numpy as np
import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.finetuning import runner
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.inputs import job_of, resolve
from orchestrator.finetuning.worker import finetune
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.training.learning_rates import Rate
from orchestrator.zoo import Zoo
from tests.support.streams import FILLER, WORDS, make_place

RATE = Rate(1e-2, "a test")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_lessons(root):
    """Write `make_place` and the files multilabel, tags and numbers; return the folder."""
    make_place(root, dropout=0.0)
    rng = np.random.default_rng(5)
    forms = {"multilabel": [], "tags": [], "numbers": []}
    for _ in range(160):
        kinds = [kind for kind in WORDS if rng.random() < 0.5]
        words = [(rng.choice(WORDS[kind]), kind) for kind in kinds]
        words += [(word, None) for word in rng.choice(FILLER, 4)]
        rng.shuffle(words)
        text = " ".join(str(word) for word, _ in words)
        forms["multilabel"].append({"text": text, "labels": kinds})
        tags = [f"B-{kind}" if kind else "O" for _, kind in words]
        forms["tags"].append({"tokens": text.split(), "tags": tags})
        forms["numbers"].append({"text": text, "score": len(kinds) + 0.5})
    for name, rows in forms.items():
        write(root / f"{name}.jsonl", rows)
    return root


def job(place, file="task2", **changes):
    """Return a job on one of the files."""
    fields = {
        "run": {"name": "lesson", "dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": "encoder",
        "output": "child",
        "data": {"source": f"files:{place}/{file}.jsonl"},
        "train": {"epochs": 6, "global_batch_size": 16, "max_length": 16},
        **changes,
    }
    return validate_config(FinetuneConfig, fields, "test")


def planned(config, run_dir, rate=RATE):
    """Return what the workers of a job get."""
    package = Zoo(config.run.zoo).get(config.package)
    return job_of(resolve(config, package), run_dir, rate)


def learn(config, run_dir, rate=RATE):
    """Train a job in this process; return its summary and the folder of the package's files."""
    context = Worker.alone(run_dir)
    return finetune(context, planned(config, run_dir, rate)).result, run_dir / "export"


def commit_encoder(
    place, name, *, layers, width, words=None, vocab_size=300, heads=("mlm",), labels=()
):
    """Commit an untrained encoder, with the tokenizer of `encoder` unless it is given words."""
    processor = TextProcessor.load(Zoo(place / "zoo").get("encoder").path)
    if words is not None:
        processor = TextProcessor.train(words, vocab_size, max_length=16)
    config = ModelConfig(
        hidden_size=width,
        vocab_size=processor.vocab_size,
        max_position_embeddings=16,
        embedding={"parts": ["word", "pos"], "dropout": 0.0},
        encoder={"type": "transformer", "num_layers": layers, "num_heads": 2, "dropout": 0.0},
        target=list(heads),
    )
    torch.manual_seed(1)
    named = {head["name"]: list(labels) for head in heads if isinstance(head, dict)}
    task = {"kind": "mlm", "labels": named}
    producer = {"stage": "test"}
    draft = Zoo(place / "zoo").draft(name, kind="pretrained", producer=producer, task=task)
    with draft as folder:
        write_model(folder.path, build_model(config), config)
        processor.save(folder.path)
        return folder.commit()


def run_here(config):
    """Run a job with its one worker in this process."""

    def train(folder, inputs):
        return finetune(Worker.alone(folder.path), job_of(inputs, folder.path, RATE)).result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_train", train)
        return runner.run(config)
