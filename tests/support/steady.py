"""Training that goes on until it is told to end, and writes down every step: for fault injection.

``train`` is a worker function; ``python -m tests.support.steady RUN_DIR OPTIONS`` a driver that
launches it and prints what it returned. A test reads ``Steps`` while it runs and injects faults.
"""

import json
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.config import StrictModel
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import clip_gradients
from orchestrator.training.worker_context import Watchdog
from tests.support.toy import toy_model, toy_window

ROOT = Path(__file__).resolve().parents[2]
WORKER = "tests.support.steady:train"
RATE = 3e-3
FINISH, STEPS = "finish", "steps.jsonl"
WAIT_S = 240


class Options(StrictModel):
    """Payload of the worker."""

    kind: str
    """Engine."""
    every: int
    """Steps between two checkpoints."""
    pause_s: float
    """Seconds between two steps."""
    limit_s: float = 60
    """Seconds after which a step hangs."""


class Losses(StrictModel):
    """State of a checkpoint."""

    losses: tuple[float, ...]


class Trained(Losses):
    """Result of the worker."""

    steps: int
    world: int


def train(ctx, payload):
    """Train the toy until the run's folder holds ``finish``, whose text is the last step."""
    torch.set_num_threads(1)
    ctx = ctx.claimed()
    engine = _engine(ctx, payload.kind)
    found = ctx.latest_checkpoint()
    if found is not None:
        engine.load(found.path)
    first = step = 0 if found is None else found.step
    losses = [] if found is None else list(found.read(Losses).losses)
    with (
        (ctx.run_dir / STEPS).open("a") as log,
        closing(Watchdog(ctx.hung, payload.limit_s)) as watchdog,
    ):
        while step != (end := ctx.broadcast_from_rank_zero(_told(ctx))):
            if 0 <= end < step:
                raise ValueError(f"told to end at {end}, but at {step} already")
            with watchdog.step():
                losses.append(_step(ctx, engine, step))
            step += 1
            row = {"step": step, "rank": ctx.rank, "world": ctx.world, "first": first}
            row |= {"pid": os.getpid(), "at": time.time(), "loss": losses[-1]}
            log.write(json.dumps(row) + "\n")  # shorter than a page: lines of ranks do not mix
            log.flush()
            if step % payload.every == 0:
                ctx.begin_checkpoint(step, engine, Losses(losses=tuple(losses)))
            time.sleep(payload.pause_s)
        ctx.settle_checkpoint()
    return Trained(losses=tuple(losses), steps=step, world=ctx.world)


def _told(ctx):
    path = ctx.run_dir / FINISH
    return int(path.read_text()) if ctx.rank == 0 and path.exists() else -1


def _engine(ctx, kind):
    zero = {"type": "zero", "zero_stage": int(kind[-1])} if kind.startswith("zero") else None
    config = EngineConfig(**(zero or {"type": kind}))
    return ctx.build_engine(toy_model(), OptimizerConfig(learning_rate=RATE, eps=1e-6), config)


def _step(ctx, engine, step):
    metrics = engine.forward_backward(toy_window(step, ctx.rank, ctx.world))
    clip_gradients(engine, 1.0)
    engine.set_lr(RATE)
    engine.step()
    return metrics["loss"]


@dataclass(frozen=True)
class Run:
    """A run of :func:`train`, seen from a test."""

    path: Path

    def rows(self, rank=0):
        """Return what a rank recorded: one row per step, also of steps that were lost later."""
        path = self.path / STEPS
        text = path.read_text() if path.exists() else ""
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [row for row in rows if row["rank"] == rank]

    def last(self, rank=0):
        """The last row, or one of step 0."""
        return (self.rows(rank) or [{"step": 0, "world": 0, "pid": 0, "at": 0.0, "first": 0}])[-1]

    def groups(self):
        """(pid, world, first step, time of its first step done) of rank 0 of each group."""
        found = {}
        for row in self.rows():
            found.setdefault(row["pid"], (row["pid"], row["world"], row["first"], row["at"]))
        return list(found.values())

    def wait(self, condition, alive=lambda: None, seconds=WAIT_S):
        """Wait until ``condition(last row)`` holds; ``alive`` may raise."""
        deadline = time.monotonic() + seconds
        while not condition(row := self.last()):
            alive()
            assert time.monotonic() < deadline, f"still at {row} after {seconds} s"
            time.sleep(0.02)
        return row

    def committed(self):
        """Steps of the committed checkpoints -> workers that wrote them."""
        found = {}
        for path in self.path.glob("checkpoints/step-*/manifest.json"):
            if ".tmp-" in path.parent.name:
                continue
            try:
                manifest = json.loads(path.read_text())
            except FileNotFoundError:
                continue  # removed by the retention at this moment
            found[manifest["step"]] = manifest["world"]
        return found

    def finish(self, after=40):
        """Make the run end so many steps from now (ranks read it late); returns the step."""
        end = self.last()["step"] + after
        partial = self.path / f"{FINISH}.partial"
        partial.write_text(str(end))
        partial.replace(self.path / FINISH)
        return end


def undisturbed(steps, kind="single"):
    """Losses of the same training in this process, without a cluster and without faults."""
    from orchestrator.cluster.context import Worker

    ctx = Worker.alone(Path("unused"))
    engine = _engine(ctx, kind)
    return [_step(ctx, engine, step) for step in range(steps)]


def main():
    """Launch as a job would, and print the outcome as the last line."""
    from orchestrator.cluster.launcher import launch
    from orchestrator.config.job import ElasticClusterSection

    run_dir, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    run_dir.mkdir(parents=True, exist_ok=True)
    outcome = launch(
        WORKER,
        Options(**options["payload"]),
        Trained,
        cluster=ElasticClusterSection(**options["cluster"]),
        engine=EngineConfig(),
        run_dir=run_dir,
        name="steady",
        on_event=lambda event: print("event", type(event).__name__, flush=True),
    )
    print(outcome.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
