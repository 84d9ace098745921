"""A small world for task streams: an encoder in a zoo, three labelled files, a job over them."""

import json

import numpy as np
import torch

from orchestrator.config import validate_config
from orchestrator.continual.config import ContinualConfig
from orchestrator.data.processors.text import TextProcessor
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.zoo import Zoo

WORDS = {
    "animal": ["cat", "dog", "horse", "cow", "sheep"],
    "tool": ["hammer", "saw", "drill", "screw", "wrench"],
    "fruit": ["apple", "pear", "plum", "cherry", "fig"],
}
FILLER = ["the", "of", "with", "near", "under", "has", "one", "two", "three", "some"]


def write_rows(path, labels, seed, rows=120):
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(rows):
        label = labels[i % len(labels)]
        words = [*rng.choice(FILLER, 2), rng.choice(WORDS[label]), *rng.choice(FILLER, 2)]
        rng.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "label": label}))
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")


def make_place(root, dropout=0.1):
    """Write a zoo with one encoder, and three labelled files; return the folder."""
    names = list(WORDS)
    for i, labels in enumerate((names[:2], names[1:], names)):
        write_rows(root / f"task{i}.jsonl", labels, i)
    every = [*FILLER, *(word for words in WORDS.values() for word in words)]
    processor = TextProcessor.train(every * 3, 300, max_length=16)
    config = ModelConfig(
        hidden_size=16,
        vocab_size=processor.vocab_size,
        max_position_embeddings=16,
        embedding={"parts": ["word", "pos"], "dropout": dropout},
        encoder={
            "type": "transformer",
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_size": 32,
            "dropout": dropout,
        },
        target=["mlm", {"type": "cls", "name": "earlier", "num_labels": 4}],
    )
    torch.manual_seed(0)
    task = {"kind": "mlm", "labels": {"earlier": ["a", "b", "c", "d"]}}
    with Zoo(root / "zoo").draft(
        "encoder", kind="pretrained", producer={"stage": "test"}, parents=[], task=task, metrics={}
    ) as draft:
        write_model(draft.path, build_model(config), config)
        processor.save(draft.path)
        draft.commit()
    return root


def job(place, count=2, **changes):
    fields = {
        "run": {"name": "stream", "dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "tasks": [{"source": f"files:{place}/task{i}.jsonl"} for i in range(count)],
        "method": {"preset": "c&f", "find": {"fisher_samples": 16}},
        "train": {
            "max_steps": 12,
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "optimizer": {"learning_rate": 5e-3},
            "checkpoint_every_steps": 5,
            "log_every_steps": 1,
        },
        **changes,
    }
    return validate_config(ContinualConfig, fields, "test")
