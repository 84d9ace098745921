"""Memory of one of several workers, built and training: growth of its resident memory."""

import gc
import json
import os
import tempfile
from pathlib import Path

import torch
from torch import distributed

from orchestrator.cluster.engines import build_engine
from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_on_meta, first_values
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.initialization import Materialization, set_aside
from orchestrator.modeling.lora import freeze
from orchestrator.modeling.package import open_model
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import clip_gradients
from tests.support import ranks

EXACT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",  # larger tensors are returned to the system when freed
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
}
STEPS = 3


def measure(
    model: dict, engine: dict, *, world: int, batch: int, length: int, **more
) -> dict[str, int]:
    """Return the largest growth in bytes of rank 0, libraries not counted.

    ``start``: until the first step has ended, building included; ``steps``: over later steps.

    Args:
        model: Its config.
        engine: The engine's config.
        world: Processes.
        batch: Sequences of one micro-batch.
        length: Tokens of each.
        more: ``micro`` (micro-batches of a step), ``frozen`` (patterns), ``package`` (a folder that
            the weights come from).
    """
    folder = Path(tempfile.mkdtemp())
    job = {"model": model, "engine": engine, "batch": batch, "length": length, **more}
    before = {key: os.environ.get(key) for key in EXACT}
    os.environ.update(EXACT)
    try:
        ranks.spawn(_worker, world, folder, job, fresh=True)
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    return json.loads((folder / "grown").read_text())


def _worker(rank: int, world: int, folder: Path, job: dict) -> None:
    small = job["model"] | {"hidden_size": 8}
    small |= {"vocab_size": 32} if "vocab_size" in small else {}
    _train(job, small)  # loads what is loaded at the first use
    gc.collect()
    distributed.barrier()
    base = _resident("VmRSS")
    first, *later = _train(job, job["model"])
    if rank == 0:
        grown = {"start": first - base, "steps": max(later) - base}
        (folder / "grown").write_text(json.dumps(grown))


def _train(job: dict, raw: dict) -> list[int]:
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    config = validate_config(ModelConfig, raw, "test")
    if "package" in job and raw is job["model"]:
        model, stored = open_model(Path(job["package"]), config.target)
        values = set_aside(model, stored)
        del stored
    else:
        model = build_on_meta(config)
        values = first_values(model, config, 0)
    freeze(model, job.get("frozen", []))
    missing = Materialization(values, torch.device("cpu"))
    world, settings = distributed.get_world_size(), EngineConfig(**job["engine"])
    engine = build_engine(model, OptimizerConfig(), settings, world=world, missing=missing)
    del values, missing  # and with them the mapped file
    model.train()
    window = [_batch(config, job["batch"], job["length"])] * job.get("micro", 1)
    peaks = []
    for _ in range(STEPS):
        engine.forward_backward(window)
        clip_gradients(engine, 1.0)
        engine.step()
        peaks.append(_resident("VmHWM"))
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    return peaks


def _batch(config: ModelConfig, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Return a batch of pictures, or of words for both sides of the model."""
    if not config.vocab_size:
        side = config.embedding.parts[0].image_size
        pictures = torch.randn(rows, 3, side, side)
        return {"pixel_values": pictures, "labels.cls": torch.zeros(rows, dtype=torch.long)}
    ids = torch.randint(1, config.vocab_size, (rows, length))
    batch = {"input_ids": ids, "labels.lm": ids}
    return batch if config.decoder is None else batch | {"decoder_input_ids": ids}


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))
