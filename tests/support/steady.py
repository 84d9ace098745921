"""The product's pre-training with every step written down and an end on demand: for faults.

``pretrain_all`` is the stage's own worker function; ``python -m tests.support.steady OVERRIDES`` is
``orchestrator pretrain`` with it. A test reads ``Run`` while it trains and injects faults.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import orchestrator.pretraining.worker as stage
from orchestrator.config import load_config
from orchestrator.errors import InterruptedRunError
from orchestrator.pretraining import runner
from orchestrator.pretraining.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
WORKER = "tests.support.steady:pretrain_all"
FINISH, STEPS, PAUSE = "finish", "steps.jsonl", "pause"
WAIT_S = 600
TINY = (
    *("data.max_documents=100", "data.tokenizer.vocab_size=400", "model.hidden_size=32"),
    *("model.encoder.num_layers=1", "model.encoder.num_heads=2"),
    *("model.encoder.intermediate_size=64", "train.eval_blocks=16"),
    *("train.micro_batch_size=8", "train.global_batch_size=16"),
    # The end is told while it runs: no step may depend on it.
    *("train.max_steps=1000000", "train.schedule={type: constant, warmup_steps: 4}"),
    *("train.log_every_steps=1", "train.eval_every_steps=0"),
)
"""Overrides of the preset: seconds of training, and a curve that does not depend on its length."""


def pretrain_all(context, payload):
    """Run the stage's worker function until the run's folder holds ``finish``, the last step."""
    train = stage.train

    def observed(*args, first_step, hooks, **options):
        watch = _Watch(context, Path(payload.jobs[0].run_dir), first_step)
        return train(
            *args,
            first_step=first_step,
            hooks=replace(
                hooks,
                observer=lambda event: (hooks.observer(event), watch.observe(event)),
                should_stop=lambda: watch.ended() or hooks.should_stop(),
            ),
            **options,
        )

    stage.train = observed
    try:
        return stage.pretrain_all(context, payload)
    finally:
        stage.train = train


class _Watch:
    """Writes down the steps of one rank, and knows when to end."""

    def __init__(self, context, path, first):
        self.path, self.done = path, first
        self.row = {"rank": context.rank, "world": context.world, "first": first}
        pause = path / PAUSE
        self.pause_s = float(pause.read_text()) if pause.exists() else 0.0

    def observe(self, event):
        if event.split != "train":
            return
        row = self.row | {"step": event.step, "pid": os.getpid(), "at": time.time()}
        row |= {"loss": event.metrics["loss"], "cpu": time.process_time()}
        with (self.path / STEPS).open("a") as log:
            log.write(json.dumps(row) + "\n")  # shorter than a page: lines of ranks do not mix
        time.sleep(self.pause_s)

    def ended(self):
        """Called once after every step, before `observe`."""
        self.done += 1
        path = self.path / FINISH
        return self.row["rank"] == 0 and path.exists() and self.done >= int(path.read_text())


@dataclass(frozen=True)
class Run:
    """A run of :func:`pretrain_all`, seen from a test."""

    path: Path

    @classmethod
    def named(cls, folder, name, pause_s=0.0):
        """Make the run's folder in ``folder/runs``."""
        run = cls(folder / "runs" / name)
        run.path.mkdir(parents=True)
        (run.path / PAUSE).write_text(str(pause_s))
        return run

    def overrides(self, *more):
        """Return the job's overrides."""
        return [
            *TINY,
            *(f"run.name={self.path.name}", f"package.name={self.path.name}"),
            *(f"run.dir={self.path.parent}", f"run.zoo={self.path.parent.parent}/zoo"),
            *more,
        ]

    def train(self, *more):
        """Run the job in this process, on the Ray that is there, until it is told to end."""
        before, runner.WORKER = runner.WORKER, WORKER
        try:
            runner.run(load_config(PretrainConfig, PRESET, self.overrides(*more)))
        except InterruptedRunError:
            return
        finally:
            runner.WORKER = before
        raise AssertionError("a million steps done")

    def rows(self, rank=0):
        """Return what a rank recorded: one row per step, also of steps that were lost later."""
        path = self.path / STEPS
        text = path.read_text() if path.exists() else ""
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [row for row in rows if row["rank"] == rank]

    def last(self, rank=0):
        """The last row, or one of step 0."""
        return (self.rows(rank) or [{"step": 0, "world": 0, "pid": 0, "at": 0.0, "first": 0}])[-1]

    def losses(self):
        """The losses from step 1 on; of a step that was done twice, the last."""
        found = {row["step"]: row["loss"] for row in self.rows()}
        assert sorted(found) == list(range(1, len(found) + 1))
        return [found[step] for step in sorted(found)]

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
            time.sleep(0.05)
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
        """Make the run end so many steps from now; returns the step."""
        return self.end_at(self.last()["step"] + after)

    def end_at(self, step):
        """Make the run end after a step that is not done yet; returns it."""
        partial = self.path / f"{FINISH}.partial"
        partial.write_text(str(step))
        partial.replace(self.path / FINISH)
        return step


def undisturbed(folder, steps):
    """Losses of the same training in this process, without a cluster and without faults."""
    from orchestrator.cluster.context import Worker
    from orchestrator.pretraining.inputs import prepare_inputs
    from orchestrator.pretraining.state import PretrainPayload

    run = Run.named(Path(tempfile.mkdtemp(dir=folder)), "undisturbed")
    run.end_at(steps)
    overrides = run.overrides("engine={type: single}", "cluster.workers=1")
    config = load_config(PretrainConfig, PRESET, overrides)
    job = prepare_inputs(config, run.path.parent / runner.CORPORA).job(run.path, None)
    pretrain_all(Worker.alone(run.path), PretrainPayload(jobs=(job,)))
    return run.losses()


def main():
    """Pre-train as the command does, with the preset and the overrides of the command line."""
    from orchestrator.cli import main as command

    runner.WORKER = WORKER
    sys.exit(command(["pretrain", f"--config={PRESET}", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
