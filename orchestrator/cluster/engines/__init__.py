"""Engine selection: one process, DDP, DeepSpeed ZeRO, or FSDP2."""

from collections.abc import Mapping

import torch
from torch import nn

from orchestrator.errors import InputError
from orchestrator.modeling.initialization import Materialization, fill_all
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import Engine


def resolve(engine: EngineConfig, world: int) -> str:
    """Return what ``auto`` means for ``world`` workers, or the type that was asked for.

    ZeRO stage 0 cuts nothing: it is data parallelism, and runs on our own engines, which do not
    have the step with zero gradients that DeepSpeed's stage 0 takes in bf16 when it is built.
    """
    shards_nothing = engine.type == "zero" and engine.zero_stage == 0
    if engine.type != "auto" and not shards_nothing:
        return engine.type
    return "single" if world == 1 else "ddp"


def _checkpoint_activations(model: nn.Module) -> None:
    switch = getattr(model, "checkpoint_activations", None)
    if switch is None or not switch():
        raise InputError(
            "engine.activation_checkpointing: true, but no component of this model has blocks. "
            "Set it to false, or use a transformer"
        )


def _compile(model: nn.Module) -> None:
    compile_blocks = getattr(model, "compile_blocks", None)
    if compile_blocks is None or not compile_blocks():
        raise InputError(
            "engine.compile: true, but no component of this model has blocks. "
            "Set it to false, or use a transformer"
        )


def build_engine(
    model: nn.Module,
    optimizer: OptimizerConfig,
    engine: EngineConfig,
    target_weights: Mapping[str, float] | None = None,
    *,
    world: int,
    missing: Materialization | None = None,
) -> Engine:
    """Wrap a model in the configured engine; collective.

    Args:
        model: On its device, built the same way on every rank.
        optimizer: The optimizer's settings.
        engine: Type, ZeRO stage, number format, offload.
        target_weights: Weight of each target in the objective; 1 where not given.
        world: Number of workers.
        missing: Device and values for a model on the meta device. Each rank makes no more of it
            than the engine keeps there.

    Raises:
        InputError: ``single`` with more than one worker, or activation checkpointing or
            compilation for a model that has no blocks, or whose blocks cannot be compiled.
        StageError: The installed DeepSpeed does not behave as the engine needs.
    """
    for problem in engine.problems_with(world, optimizer):
        raise InputError(f"engine.{problem}")
    if engine.activation_checkpointing:
        _checkpoint_activations(model)
    if engine.compile:
        _compile(model)
    torch.set_float32_matmul_precision("high" if engine.tf32 else "highest")
    kind, scale = resolve(engine, world), engine.loss_scale
    given = (model, optimizer, target_weights)
    if missing is not None and kind in ("single", "ddp"):
        fill_all(model, missing.values, missing.device)
    if kind == "single":
        from orchestrator.training.engines.torch_engines import SingleEngine

        return SingleEngine(*given, precision=engine.precision, loss_scale=scale)
    if kind == "ddp":
        from orchestrator.training.engines.torch_engines import DDPEngine

        return DDPEngine(*given, precision=engine.precision, loss_scale=scale)
    if kind == "fsdp2":
        from orchestrator.cluster.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(*given, engine, missing=missing)
    from orchestrator.cluster.engines.deepspeed_zero import ZeroEngine

    return ZeroEngine(*given, engine, missing=missing)
