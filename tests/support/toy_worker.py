"""Worker functions that tests launch."""

import os

import torch

from orchestrator.errors import ConfigError, Problem
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.descent import descend
from orchestrator.training.engines.engine import clip_gradients
from tests.support.state import AnyState
from tests.support.toy import toy_model, toy_window

RATE, STEPS = 3e-3, 20


def compare_engines(ctx, payload):
    """Train the toy with each engine on the same windows; losses, weights, shards of each."""
    found = {kind: _trained(ctx, kind) for kind in payload.kinds}
    whole = {"micro": 1, "rows": 4}  # the same samples without accumulation
    found["whole"] = {"losses": curve(_engine(ctx, "ddp"), ctx.rank, ctx.world, **whole)}
    lamb = {kind: _with_lamb(ctx, kind) for kind in payload.lamb}
    return AnyState(
        kinds=found, lamb=lamb, overflow={kind: _overflow(ctx, kind) for kind in payload.overflow}
    )


def _with_lamb(ctx, kind):
    engine = _engine(ctx, kind, optimizer="lamb")
    losses = curve(engine, ctx.rank, ctx.world)
    weights = {name: value.flatten().tolist() for name, value in engine.gathered().items()}
    return {"losses": losses, "weights": weights}


def curve(engine, rank, world, **cut):
    """Losses of the steps; in every third one head has no label on any rank."""
    losses = []
    for step in range(STEPS):
        heads = "both" if step % 3 else "lm"
        metrics = engine.forward_backward(toy_window(step, rank, world, heads=heads, **cut))
        clip_gradients(engine, 1.0)
        engine.set_lr(RATE)
        engine.step()
        losses.append(metrics["loss"])
    return losses


def _overflow(ctx, kind):
    """Begin with a loss scale far too large; scales and decisions of every rank, and weights."""
    scale = {"initial": 2.0**24, "growth_steps": 4}
    engine = _engine(ctx, kind, precision="fp16", loss_scale=scale)
    rows = []
    for step in range(20):
        metrics = engine.forward_backward(toy_window(step, ctx.rank, ctx.world))
        metrics = descend(engine, metrics, RATE, max_grad_norm=1.0)
        rows.append([metrics["loss_scale"], metrics.get("overflow", 0.0), metrics["skipped"]])
    mine = torch.zeros(ctx.world, *torch.tensor(rows).shape)
    mine[ctx.rank] = torch.tensor(rows)
    weights = engine.gathered()
    return {
        "ranks": engine.sum_over_ranks(mine).tolist(),
        "finite": all(bool(torch.isfinite(value).all()) for value in weights.values()),
        "frozen": weights["frozen.weight"].flatten().tolist(),
    }


def _trained(ctx, kind):
    engine = _engine(ctx, kind)
    losses = curve(engine, ctx.rank, ctx.world)
    elements = torch.tensor([sum(shard.master.numel() for shard in engine.shards())])
    return {
        "losses": losses,
        "weights": {name: value.flatten().tolist() for name, value in engine.gathered().items()},
        "evaluation": engine.evaluate(toy_window(99, ctx.rank, ctx.world))["loss"],
        "elements": int(elements),
        "all_elements": int(engine.sum_over_ranks(elements)),
        **_continued(ctx, kind, engine),
    }


def _continued(ctx, kind, engine):
    """Compare engines loaded from a checkpoint, of its kind and DDP, with the saved one."""
    ctx.commit_checkpoint(STEPS, engine, AnyState(kind=kind))
    found = ctx.latest_checkpoint()
    losses, ends = [], []
    for each in (engine, _engine(ctx, kind), _engine(ctx, "ddp")):
        if each is not engine:
            each.load(found.path)
        losses.append([_step(ctx, each, step) for step in range(STEPS, STEPS + 3)])
        ends.append(each.gathered())
    same = all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    ctx.checkpoints.clear() if ctx.rank == 0 else None
    ctx.barrier()
    return {"resumes": bool(same and found.read(AnyState).kind == kind), "continued": losses}


def _engine(ctx, kind, optimizer="adamw", **more):
    name, _, offloaded = kind.partition("-")
    settings = {"type": name} | more
    if name.startswith("zero"):
        settings |= {"type": "zero", "zero_stage": int(name.removeprefix("zero"))}
    if offloaded:
        settings["offload"] = {"optimizer": "cpu", "parameters": "3" in name or name == "fsdp2"}
    config = EngineConfig.model_validate(settings)
    chosen = OptimizerConfig(type=optimizer, learning_rate=RATE, eps=1e-6)
    return ctx.build_engine(toy_model(), chosen, config)


def refuse(ctx, payload):
    """Fail on the last rank with an error of this system, while the others wait for it."""
    if ctx.rank == ctx.world - 1:
        if payload.error == "config":
            raise ConfigError("job.yaml", [Problem("a.b", "is wrong")])
        raise ValueError("an ordinary bug")
    ctx.barrier()
    return AnyState()


def die_once(ctx, payload):
    """Lose the last rank of the first attempt at a step; go on from its checkpoint.

    Ends with the losses of the second attempt, and those of a run that nothing happens to.
    """
    ctx = ctx.claimed()
    engine = _engine(ctx, payload.kind)
    found = ctx.latest_checkpoint()
    if found is not None:
        engine.load(found.path)
    first = 0 if found is None else found.step
    losses = []
    for step in range(first, 6):
        if found is None and step == payload.at and ctx.rank == ctx.world - 1:
            os._exit(1)
        losses.append(_step(ctx, engine, step))
        if (step + 1) % 2 == 0:
            ctx.commit_checkpoint(step + 1, engine, AnyState())
    other = _engine(ctx, payload.kind)
    whole = [_step(ctx, other, step) for step in range(6)]
    return AnyState(first=first, losses=losses, uninterrupted=whole)


def _step(ctx, engine, step):
    metrics = engine.forward_backward(toy_window(step, ctx.rank, ctx.world))
    engine.set_lr(RATE)
    engine.step()
    return metrics["loss"]
