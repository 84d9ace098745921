"""The memory that ``--check`` prints is what a worker really takes, to 15 %."""

from pathlib import Path

import pytest

from orchestrator.config import validate_config
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.estimate import activation_bytes, model_sizes
from orchestrator.pretraining.estimate_memory import worker_memory
from orchestrator.training.config import EngineConfig
from tests.support.memory_worker import measure

pytestmark = pytest.mark.chaos

MODEL = {  # 29 million parameters: far above what libraries move
    "vocab_size": 8000,
    "hidden_size": 512,
    "max_position_embeddings": 64,
    "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
    "encoder": {
        "type": "transformer", "num_heads": 8, "num_layers": 8, "dropout": 0.0, "mask": "causal",
    },
    "target": "lm",
}  # fmt: skip
BATCH, LENGTH, WORKERS = 4, 64, 2
ALLOWED = 0.15


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory peaks")
@pytest.mark.parametrize(
    ("engine", "micro", "frozen"),
    [
        ({"type": "ddp"}, 1, []),
        ({"type": "zero", "zero_stage": 1}, 1, []),
        ({"type": "zero", "zero_stage": 2}, 1, []),
        ({"type": "zero", "zero_stage": 3}, 1, []),
        ({"type": "fsdp2"}, 1, []),
        ({"type": "zero", "zero_stage": 2}, 2, ["encoder.layers.[0-3]"]),
    ],
    ids=["ddp", "zero1", "zero2", "zero3", "fsdp2", "zero2-frozen-accumulated"],
)
def test_workers_take_what_was_estimated(engine, micro, frozen):
    config = validate_config(ModelConfig, MODEL, "test")
    activations = activation_bytes(config, batch_size=BATCH, length=LENGTH)
    estimate = worker_memory(
        model_sizes(config, frozen),
        EngineConfig(**engine),
        WORKERS,
        activations,
        micro_batches=micro,
    ).total
    shape = {"world": WORKERS, "batch": BATCH, "length": LENGTH}
    measured = measure(MODEL, engine, **shape, micro=micro, frozen=frozen)
    assert abs(estimate / measured - 1) <= ALLOWED, (
        f"estimated {estimate / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB"
    )
