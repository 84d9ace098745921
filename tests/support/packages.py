"""Tiny real packages: a trained tokenizer, a random model, committed into a zoo."""

import shutil
from pathlib import Path

import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.quantization.plans import Plan, fully_quant
from orchestrator.quantization.source import read_source

SENTENCES = (
    "Return the sum of the elements of an array over the given axis.",
    "Raised when a file or folder cannot be opened for reading.",
    "Start a worker process and wait until it is ready to take tasks.",
    "Compute the mean of a tensor along a dimension, keeping its shape.",
    "A queue that hands tasks to the workers in the order they came.",
    "Deprecated alias of the function that joins two tables by a key.",
)
LABELS = ("array", "error", "worker")
MAX_LENGTH = 48


def write_tiny(
    folder: Path, *, seed: int = 0, targets: tuple[dict, ...] | None = None, mask: str | None = None
) -> tuple[TextProcessor, ModelConfig]:
    """Write tokenizer and model files: hidden size 16, one layer, ``targets`` or one classifier."""
    torch.manual_seed(seed)
    processor = TextProcessor.train(SENTENCES, vocab_size=160, max_length=MAX_LENGTH)
    processor.save(folder)
    heads = targets or ({"type": "cls", "name": "topic", "num_labels": len(LABELS)},)
    config = ModelConfig.model_validate(
        {
            "hidden_size": 16,
            "vocab_size": processor.vocab_size,
            "max_position_embeddings": 64,
            "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2}
            | ({} if mask is None else {"mask": mask}),
            "target": list(heads),
        }
    )
    model = build_model(config)
    with torch.no_grad():  # large enough that different texts get clearly different answers
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    write_model(folder, model, config)
    return processor, config


def commit_tiny(
    zoo,
    name: str = "tiny",
    *,
    seed: int = 0,
    targets: tuple[dict, ...] | None = None,
    files: dict[str, str] | None = None,
    mask: str | None = None,
    pairs: bool = False,
):
    """Commit a tiny model, a classifier unless told, as the next version of ``name``."""
    task = {
        "kind": "classification" if targets is None else targets[0]["type"],
        "modality": "text",
        "labels": {"topic": list(LABELS)} if targets is None else {},
        "max_length": MAX_LENGTH,
    } | ({"pairs": True} if pairs else {})
    producer = {"stage": "test", "job": "tiny"}
    with zoo.draft(
        name, kind="finetuned", producer=producer, parents=[], task=task, metrics={}
    ) as draft:
        write_tiny(draft.path, seed=seed, targets=targets, mask=mask)
        for relative, content in (files or {}).items():
            target = draft.path / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
        return draft.commit()


def commit_graph(zoo, package, name: str = "graph", kind: str = "fp32"):
    """Commit a package as a graph with every unit in one kind, as quantization writes it."""
    source = read_source(package.path)
    units = source.emit().units
    plan = Plan({}) if kind == "fp32" else fully_quant(units, kind)
    stated = package.manifest.task.model_dump(mode="json")
    producer = {"stage": "test", "job": "graph"}
    with zoo.draft(
        name, kind="quantized", producer=producer, parents=[package.ref], task=stated
    ) as draft:
        shutil.copytree(package.path, draft.path, dirs_exist_ok=True)
        for weights in (*draft.path.glob("model*.safetensors"), draft.path / "manifest.json"):
            weights.unlink()
        (draft.path / "model.onnx").write_bytes(source.emit(plan).to_bytes())
        (draft.path / "plan.json").write_text(plan.to_file().model_dump_json())
        return draft.commit()
