"""The plan: memory by formula, and the text of --check."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import ModelSizes
from orchestrator.pretraining.estimate_memory import (
    BUCKET_VALUES,
    OptimizerMemory,
    optimizer_memory,
    worker_memory,
)
from orchestrator.pretraining.job_sections import TrainingSection
from orchestrator.pretraining.plan import describe, make_plan
from orchestrator.pretraining.runner import check
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.optimizers import hidden_matrices

PRESET = Path(__file__).parents[3] / "jobs/configs/pretrain_bert_nano.yaml"
M = 1_000_000
SIZES = ModelSizes(total=M, trained=M, largest=M // 10, block=M // 10, root=M // 5)
HALF_TRAINED = ModelSizes(total=M, trained=M // 2, largest=M // 10, block=M // 10, root=M // 5)
BUCKET = 4 * BUCKET_VALUES


def zero(stage, **more):
    return {"type": "zero", "zero_stage": stage, **more}


@pytest.mark.parametrize(
    ("engine", "workers", "kept", "backward", "step"),
    [
        ({"type": "single"}, 1, 12 * M, 4 * M, 4.8 * M),
        ({"type": "ddp"}, 2, 16 * M, 4 * M, 4.8 * M),
        (zero(0), 2, 16 * M, 4 * M, 4.8 * M),
        (zero(1), 4, (4 + 3) * M, 4 * M + BUCKET, 4 * M),
        (zero(1, precision="bf16"), 4, (2 + 3 + 4) * M, (2 + 6) * M, 2 * M),
        (zero(1, precision="fp16"), 4, (2 + 3) * M, 4 * M + BUCKET / 2, 2 * M),
        (zero(2), 4, (4 + 3) * M, M + BUCKET, 4 * M),
        (zero(3), 4, 5 * M + BUCKET, 0.8 * M + 2 * BUCKET, M),
        (zero(3, precision="bf16"), 4, 4.5 * M + BUCKET / 2, 0.4 * M + BUCKET, M),
        (zero(3, precision="fp16"), 4, 4.5 * M + BUCKET / 2, 0.4 * M + BUCKET, M),
    ],
)
def test_memory_follows_the_formula(engine, workers, kept, backward, step):
    memory = worker_memory(SIZES, EngineConfig(**engine), workers, activations=0)
    assert (memory.kept, memory.backward, memory.step) == (kept, backward, step)
    assert memory.total == kept + max(backward, step)


def test_muon_has_half_the_state_of_hidden_matrices_and_gathers_one():
    raw = {"vocab_size": 50, "hidden_size": 8, "encoder": "transformer", "target": "mlm"}
    model = validate_config(ModelConfig, raw, "test")
    train = TrainingSection(optimizer=OptimizerConfig(type="muon"))
    found = optimizer_memory(train, model)
    built = build_model(model)
    stacks = hidden_matrices(built).values()
    hidden = sum(stack.size for stack in stacks)
    total = sum(p.numel() for p in built.parameters())
    assert found.state_bytes * total == pytest.approx(8 * total - 4 * hidden)
    assert found.workspace == 6 * 4 * max(stack.size for stack in stacks)
    assert optimizer_memory(TrainingSection(), model) == OptimizerMemory()
    for engine in ({"type": "ddp"}, zero(1), zero(3), {"type": "fsdp2"}):
        settings = EngineConfig(**engine)
        muon = worker_memory(SIZES, settings, 2, 0, optimizer=OptimizerMemory(4.0, 50 * M))
        assert muon.step >= 50 * M
        assert muon.optimizer == worker_memory(SIZES, settings, 2, 0).optimizer / 2


@pytest.mark.parametrize(("engine", "copy"), [({"type": "ddp"}, 4 * M), (zero(2), M), (zero(3), M)])
def test_an_ascent_keeps_a_copy_of_the_trained_weights(engine, copy):
    flat = OptimizerMemory(ascends=True)
    plain, late = (
        worker_memory(SIZES, EngineConfig(**engine), 4, 0, optimizer=optimizer)
        for optimizer in (OptimizerMemory(), flat)
    )
    assert late.total == plain.total + copy
    train = TrainingSection(flatness={"rho": 0.5, "last_fraction": 0.25})
    assert optimizer_memory(train, None) == flat
    assert [train.gradients(step) for step in (0, 149, 150, 199)] == [1, 1, 2, 2]
    off = TrainingSection(flatness={"rho": 0})
    assert not optimizer_memory(off, None).ascends
    assert off.gradients(199) == 1


def test_activations_take_the_place_of_gradients_unless_some_are_there_already():
    engine = EngineConfig(type="single")
    for activations, micro_batches, height in [
        (M, 1, 4 * M),
        (9 * M, 1, 9 * M),
        (9 * M, 2, 13 * M),
    ]:
        memory = worker_memory(SIZES, engine, 1, activations, micro_batches=micro_batches)
        assert memory.backward == height


@pytest.mark.parametrize("engine", [{"type": "ddp"}, zero(1), zero(2), zero(3), {"type": "fsdp2"}])
def test_frozen_parameters_have_neither_gradient_nor_optimizer_state(engine):
    settings = EngineConfig(**engine)
    whole, half = (worker_memory(s, settings, 2, 0) for s in (SIZES, HALF_TRAINED))
    assert half.optimizer == whole.optimizer / 2
    assert half.masters == whole.masters / 2
    assert half.weights == whole.weights
    assert half.total < whole.total - 2 * M


def test_offload_leaves_the_sum_and_moves_a_part():
    plain = worker_memory(SIZES, EngineConfig(**zero(3)), 2, 0)
    some = worker_memory(SIZES, EngineConfig(**zero(3, offload={"optimizer": "cpu"})), 2, 0)
    both = {"optimizer": "cpu", "parameters": "cpu"}
    most = worker_memory(SIZES, EngineConfig(**zero(3, offload=both)), 2, 0)
    assert plain.total == some.total == most.total
    assert plain.on_accelerator - some.on_accelerator == (4 + 8 + 4) * M / 2
    assert some.on_accelerator - most.on_accelerator == 4 * M / 2
    assert "in host memory" in most.formula()


BIG = ModelSizes(100 * M, 100 * M, M, 4 * M, 4 * M)


@pytest.mark.parametrize(
    ("stage", "extra"),
    [
        (1, 2 * 400 * M - BUCKET),
        (2, 2 * 400 * M - BUCKET),
        (3, 3 * (400 * M - BUCKET) + 400 * M - 2 * 4 * M),
    ],
)
def test_buckets_of_an_accelerator_are_as_large_as_the_model(stage, extra):
    """Two buckets; in stage 3 also all weights, which stay gathered until they are used again."""
    both = [
        worker_memory(BIG, EngineConfig(**zero(stage)), 4, 500 * M, accelerated=accelerated)
        for accelerated in (False, True)
    ]
    assert both[1].total - both[0].total == extra


def test_every_stage_needs_less_than_the_one_before():
    stages = [EngineConfig(**zero(stage)) for stage in (1, 2, 3)]
    sizes = [worker_memory(BIG, stage, 8, 0).total for stage in stages]
    assert sizes[0] > sizes[1] > sizes[2]


def test_frozen_parameters_are_said_and_not_counted(make_config):
    plan = make_plan(make_config("train.freeze=[embedding]"))
    fixed = plan.parameters.by_part["embedding"]
    assert plan.sizes.total - plan.sizes.trained == fixed
    assert plan.memory.optimizer == 8 * plan.sizes.trained
    assert f"{fixed:,} of them frozen" in describe(plan)


def test_sizes_are_those_of_the_built_model(make_config):
    plan = make_plan(make_config())
    named = dict(build_model(plan.model).named_parameters())
    inside = [name for name in named if ".layers." in name]
    assert plan.sizes.largest == max(p.numel() for p in named.values())
    assert plan.sizes.root == sum(p.numel() for n, p in named.items() if n not in inside)
    first = [p.numel() for n, p in named.items() if n.startswith("encoder.layers.0.")]
    assert plan.sizes.block == sum(first)


def test_parameters_are_those_of_the_built_model(make_config):
    plan = make_plan(make_config())
    built = sum(p.numel() for p in build_model(plan.model).parameters())
    assert plan.parameters.total == built
    assert plan.tokens == 6 * 8 * 16


def test_check_says_what_will_happen_and_allocates_nothing(make_config, tmp_path):
    text = check(make_config("cluster.workers=2", "engine.type=zero", "engine.zero_stage=3"))
    assert "8 = 2 workers × 1 micro-batches × 4 samples" in text
    assert "ZeRO-3, fp32, 2 × 1 CPU" in text
    assert "6 steps, 768 tokens" in text
    assert "every 2 steps and at the end" in text
    assert not (tmp_path / "runs").exists()


def test_check_finds_a_corpus_that_is_not_there(make_config):
    with pytest.raises(InputError, match="nowhere"):
        check(make_config("data.data.source=files:/nowhere"))


def test_a_vocabulary_may_be_larger_than_the_tokenizers_but_not_smaller(make_config):
    config = make_config("model.vocab_size=512")
    assert config.model_for(300).vocab_size == 512
    with pytest.raises(ConfigError, match="512 is smaller than the tokenizer's 600"):
        config.model_for(600)
    assert make_config().model_for(300).vocab_size == 300


def test_the_plan_is_made_on_the_meta_device(make_config, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("values were drawn")

    monkeypatch.setattr(torch.nn.init, "normal_", refuse)
    assert make_plan(make_config()).parameters.total > 0


@pytest.mark.slow
def test_check_loads_no_library_that_only_jobs_need():
    """The imports decide how long ``--check`` takes; half of it is torch, which it needs."""
    heavy = ["ray", "deepspeed", "transformers", "pandas", "scipy", "sklearn", "datasets", "mlflow"]
    code = (
        "import sys; from orchestrator.cli import main; "
        f"assert main(['pretrain', '--config', {str(PRESET)!r}, '--check']) == 0; "
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
