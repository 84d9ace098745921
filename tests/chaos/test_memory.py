"""The memory that ``--check`` prints is what a worker really takes, to 15 %, from its start."""

from pathlib import Path

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import activation_bytes, model_sizes
from orchestrator.modeling.package import write_model
from orchestrator.pretraining.estimate_memory import worker_memory
from orchestrator.training.config import EngineConfig
from tests.support.memory_worker import measure

pytestmark = pytest.mark.chaos

DEEP = {  # 29 million parameters: far above what libraries move
    "vocab_size": 8000,
    "hidden_size": 512,
    "max_position_embeddings": 64,
    "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
    "encoder": {
        "type": "transformer", "num_heads": 8, "num_layers": 8, "dropout": 0.0, "mask": "causal",
    },
    "target": "lm",
}  # fmt: skip
WIDE = DEEP | {  # 57 million; nothing was derived from it
    "vocab_size": 6000,
    "hidden_size": 1024,
    "max_position_embeddings": 128,
    "encoder": DEEP["encoder"] | {"num_layers": 4},
}
WORDS = {"parts": ["word"], "dropout": 0.1, "layernorm": False}
RELATIVE = {
    "type": "transformer", "num_heads": 8, "num_layers": 4, "dropout": 0.1, "norm": "rms",
    "norm_position": "pre", "activation": "relu", "bias": False, "position_bias": {"type": "t5"},
}  # fmt: skip
T5 = {  # 34 million
    "vocab_size": 8000,
    "hidden_size": 512,
    "max_position_embeddings": 64,
    "embedding": WORDS,
    "encoder": RELATIVE,
    "target_embedding": WORDS,
    "decoder": RELATIVE,
    "share_embedding": True,
    "initialization": "t5",
    "target": "lm",
}
PATCHES = {"type": "patch", "image_size": 224, "patch_size": 16}
VIT = {  # 26 million
    "hidden_size": 512,
    "max_position_embeddings": 197,
    "embedding": {"parts": [PATCHES, "pos"], "dropout": 0.1, "layernorm": False},
    "encoder": {
        "type": "transformer", "num_heads": 8, "num_layers": 8, "dropout": 0.1,
        "norm_position": "pre",
    },
    "target": {"type": "cls", "num_labels": 10},
}  # fmt: skip
MODELS = {
    "deep": (DEEP, 4, 64),
    "wide": (WIDE, 2, 128),
    "t5": (T5, 4, 64),
    "vit": (VIT, 1, 197),
}
"""Model, sequences of a micro-batch, tokens of each."""
ALLOWED = 0.15
ENGINES = {
    "ddp": {"type": "ddp"},
    "zero1": {"type": "zero", "zero_stage": 1},
    "zero1-bf16": {"type": "zero", "zero_stage": 1, "precision": "bf16"},
    "zero2": {"type": "zero", "zero_stage": 2},
    "zero3": {"type": "zero", "zero_stage": 3},
    "fsdp2": {"type": "fsdp2"},
    "tensor": {"type": "fsdp2", "tensor_parallel": 2},
    "sequence": {"type": "fsdp2", "tensor_parallel": 2, "sequence_parallel": True},
}
FORMS = {name: (name, 1, []) for name in ENGINES} | {
    "zero2-frozen": ("zero2", 2, ["encoder.layers.[0-1]"])
}
"""Engine, micro-batches of a step, frozen parameters."""
CASES = [
    (form, model, (2, 4)[(row + column) % 2])
    for row, form in enumerate(FORMS)
    for column, model in enumerate(MODELS)
]
"""All pairs of two of them: each form with each model, both with two and with four workers."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory peaks")
@pytest.mark.parametrize(("form", "model", "workers"), CASES)
def test_workers_take_what_was_estimated(form, model, workers):
    raw, batch, length = MODELS[model]
    engine, micro, frozen = FORMS[form]
    config = validate_config(ModelConfig, raw, "test")
    settings = EngineConfig(**ENGINES[engine])
    if settings.precision != "fp32":  # products take minutes where there are no instructions for it
        batch, length = 1, 16
    sizes = {"batch_size": batch, "length": length, "precision": settings.precision}
    sizes |= {
        "tensor_ranks": settings.tensor_parallel,
        "positions_cut": settings.sequence_parallel,
    }
    estimate = worker_memory(
        model_sizes(config, frozen),
        settings,
        workers,
        activation_bytes(config, **sizes),
        micro_batches=micro,
    ).total
    shape = {"world": workers, "batch": batch, "length": length}
    measured = measure(raw, ENGINES[engine], **shape, micro=micro, frozen=frozen)
    print(f"{estimate / 1e6:.0f} MB estimated, {measured} measured")
    assert abs(estimate / measured["steps"] - 1) <= ALLOWED
    assert measured["start"] <= (1 + ALLOWED) * estimate


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory peaks")
@pytest.mark.parametrize("stored_as", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("engine", "workers"),
    [("zero1", 2), ("zero1", 4), ("zero2", 2), ("zero2", 4), ("zero3", 4), ("fsdp2", 4)],
)
def test_workers_that_begin_with_a_package_take_what_was_estimated(
    tmp_path, engine, workers, stored_as
):
    """As fine-tuning and continual learning do: from the start on, peaks are those of training."""
    config = validate_config(ModelConfig, DEEP, "test")
    state = {key: value.to(stored_as) for key, value in build_model(config, 0).state_dict().items()}
    write_model(tmp_path, state, config)
    shape = {"world": workers, "batch": 1, "length": 16}
    activations = activation_bytes(config, batch_size=1, length=16)
    settings = EngineConfig(**ENGINES[engine])
    estimate = worker_memory(model_sizes(config), settings, workers, activations).total
    measured = measure(DEEP, ENGINES[engine], **shape, package=str(tmp_path))
    print(f"{estimate / 1e6:.0f} MB estimated, {measured} measured")
    assert measured["start"] <= (1 + ALLOWED) * estimate
