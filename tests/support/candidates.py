"""A small world for selection: five candidates in a zoo, three benchmark sets and a target."""

import json
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.selection.config import BenchmarkConfig, SelectConfig
from orchestrator.zoo import Zoo

TOPICS = {
    "animals": {"tame": ["cat", "dog", "cow"], "wild": ["wolf", "bear", "lynx"]},
    "things": {"tool": ["hammer", "saw", "drill"], "cloth": ["shirt", "sock", "hat"]},
    "food": {"fruit": ["apple", "pear", "fig"], "grain": ["rye", "oat", "rice"]},
    "places": {
        "water": ["lake", "river", "sea"],
        "land": ["hill", "field", "desert"],
        "city": ["street", "house", "square"],
    },
}
BENCHMARKS, TARGET = ("animals", "things", "food"), "places"
FILLER = ["the", "of", "with", "near", "under", "has", "one", "two", "three", "some"]
ENCODERS = {
    "bert": {"type": "transformer", "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
    "bert-two": {"type": "transformer", "num_layers": 2, "num_heads": 2, "intermediate_size": 32},
    "bilstm": {"type": "bilstm", "num_layers": 1},
    "conv": {"type": "gatedcnn", "num_layers": 2},
    "gpt": {"type": "transformer", "num_layers": 1, "num_heads": 2, "mask": "causal"},
}
FINE_TUNE = {"epochs": 3, "global_batch_size": 8, "learning_rate": 5e-3, "max_length": 12}


def make_world(root, encoders=tuple(ENCODERS)):
    """Write the zoo and the labelled files; return the folder."""
    for seed, (name, labels) in enumerate(TOPICS.items()):
        write_rows(root / f"{name}.jsonl", labels, seed)
    zoo, processor = Zoo(root / "zoo"), make_processor()
    for name in encoders:
        commit_encoder(zoo, name, processor)
    return root


def write_rows(path, labels, seed, rows=120):
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(rows):
        label = list(labels)[i % len(labels)]
        words = [*rng.choice(FILLER, 3), rng.choice(labels[label])]
        rng.shuffle(words)
        lines.append(json.dumps({"text": f"{' '.join(words)} {i}", "label": label}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_processor():
    words = [word for labels in TOPICS.values() for group in labels.values() for word in group]
    return TextProcessor.train([*FILLER, *words, "0 1 2 3 4 5 6 7 8 9"] * 3, 400, max_length=16)


def commit_encoder(zoo, name, processor, kind="pretrained"):
    config = ModelConfig(
        hidden_size=16,
        vocab_size=processor.vocab_size,
        max_position_embeddings=16,
        embedding={"parts": ["word", "pos"], "dropout": 0.0},
        encoder=ENCODERS.get(name, ENCODERS["bert"]),
        target=["mlm"],
    )
    torch.manual_seed(len(name))
    with zoo.draft(
        name, kind=kind, producer={"stage": "test"}, task={"kind": "mlm", "max_length": 16}
    ) as draft:
        write_model(draft.path, build_model(config), config)
        processor.save(draft.path)
        return draft.commit()


def commit_broken(zoo, processor):
    """Commit a package for each way in which one cannot be trained on texts; return their names."""
    good = commit_encoder(zoo, "nan", processor)  # overwritten below: v0002 is the current one
    weights = {k: v * float("nan") for k, v in load_file(good.path / "model.safetensors").items()}
    digits = ModelConfig(
        hidden_size=16,
        max_position_embeddings=16,
        embedding={"parts": [{"type": "patch", "channels": 1, "image_size": 8, "patch_size": 4}]},
        encoder=ENCODERS["bert"],
        target=[{"type": "cls", "name": "digits", "num_labels": 10}],
    )
    for name, config in (("nan", None), ("wordless", None), ("onnx", None), ("digits", digits)):
        with zoo.draft(name, kind="pretrained", producer={"stage": "test"}) as draft:
            if config is not None:
                write_model(draft.path, build_model(config), config)
            elif name == "onnx":
                (draft.path / "model.onnx").write_bytes(b"graph")
            else:
                shutil.copytree(good.path, draft.path, dirs_exist_ok=True)
                (draft.path / "manifest.json").unlink()
            if name == "nan":
                save_file(weights, draft.path / "model.safetensors")
            if name == "wordless":
                (draft.path / "tokenizer.json").unlink()
            draft.commit()
    return ("nan", "wordless", "onnx", "digits")


def spec(root, name):
    return {"source": f"files:{root}/{name}.jsonl", "validation_fraction": 0.25}


def benchmark_job(root, **changes):
    fields = {
        "run": {"name": "bench", "dir": str(root / "runs"), "zoo": str(root / "zoo")},
        "datasets": [spec(root, name) for name in BENCHMARKS],
        "fine_tune": FINE_TUNE,
        "matrix": str(root / "matrix.parquet"),
        **changes,
    }
    return validate_config(BenchmarkConfig, fields, "test")


def select_job(root, name="pick", **changes):
    fields = {
        "run": {"name": name, "dir": str(root / "runs"), "zoo": str(root / "zoo")},
        "target": spec(root, TARGET),
        "matrix": str(root / "matrix.parquet"),
        "fine_tune": FINE_TUNE,
        "package": "chosen",
        **changes,
    }
    return validate_config(SelectConfig, fields, "test")
