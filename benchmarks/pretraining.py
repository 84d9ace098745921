"""Pre-training beside its peers: our worker, a bare torch loop, transformers' Trainer.

One BERT-like model with equal first weights, the same batches in the same order, AdamW (fused) at
a constant rate, gradients clipped to 1, no dropout, fp32, one thread per process. Ours and the bare
loop train our module; the Trainer trains transformers' BertForMaskedLM, with the same loss to show
for it. All contenders are alive at once and train in turns, a few steps each, so that other load
on the machine falls on all; what counts are the ratios. CPU seconds are those of all processes of a
contender; memory is the peak of its largest process, libraries included.

Also: what a checkpoint costs, and how long a job takes from its start to its first step, beside a
Ray Train job of two lines that does nothing.

Run: `python benchmarks/pretraining.py --write` (about 6 minutes), `--quick` for a smoke test.
"""

import argparse
import contextlib
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peers.contenders import (
    BARE,
    BATCH,
    CONTENDERS,
    DDP,
    LAYERS,
    LENGTH,
    OURS,
    SAVING,
    TRAINER,
    WIDTH,
    Contender,
    prepare,
    process,
)
from peers.startup import startup

ROOT = Path(__file__).resolve().parent
DEFAULT_INTERVAL = 100
"""Steps between checkpoints in the presets."""
DEADLINE_S = 300.0


# --- the race ------------------------------------------------------------------------------------


@dataclass
class Runner:
    """The processes of a contender and what they took."""

    contender: Contender
    pipes: list[Connection]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0
    loss: float = float("nan")

    def report(self) -> tuple[float, float]:
        """Wait until all processes have trained; return seconds and CPU seconds."""
        for pipe in self.pipes:
            if not pipe.poll(DEADLINE_S):
                raise TimeoutError(f"{self.contender.title} does not answer")
        try:
            reports = [pipe.recv() for pipe in self.pipes]
        except EOFError as error:
            raise RuntimeError(f"{self.contender.title} ended; its reason is above") from error
        self.memory = max(each[2] for each in reports)
        self.loss = reports[0][3]
        return max(each[0] for each in reports), sum(each[1] for each in reports)

    def ask(self, go: bool) -> None:
        """Let all processes train, or end."""
        for pipe in self.pipes:
            pipe.send(go)


def race(given: dict[str, Any], options: argparse.Namespace) -> list[Runner]:
    """Start the contenders and let them train in turns; the first round is not counted."""
    rounds, steps = options.rounds, options.steps
    spawn = multiprocessing.get_context("spawn")
    runners = []
    for template in (each for each in CONTENDERS if re.search(options.only, each.title)):
        settings = tuple(each.format(steps=steps) for each in template.settings)
        contender = Contender(template.title, template.kind, template.workers, settings)
        ends = [spawn.Pipe() for _ in range(contender.workers)]
        for rank, (_, end) in enumerate(ends):
            arguments = (given, contender, rank, steps, end)
            spawn.Process(target=process, args=arguments, daemon=True).start()
            end.close()  # its death is the end of the pipe
        runners.append(Runner(contender, [mine for mine, _ in ends]))
        runners[-1].report()  # its first step is done: the next one has the machine to itself
    for number in range(rounds + 1):
        for runner in runners if number % 2 else reversed(runners):
            runner.ask(go=True)
            wall, cpu = runner.report()
            if number:
                runner.wall.append(wall / steps)
                runner.cpu.append(cpu / steps)
    for runner in runners:
        runner.ask(go=False)
    return runners


# --- the report ----------------------------------------------------------------------------------


def ratios_of(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def verdict(reached: bool) -> str:
    """Return how a goal ended; a missed one stands out."""
    return "reached" if reached else "**missed**"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios of each round, with its quartiles."""
    ratios = ratios_of(ours, theirs)
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def table(runners: Sequence[Runner]) -> Iterator[str]:
    """Yield the lines of the table."""
    by_title = {runner.contender.title: runner for runner in runners}
    yield "| | tokens/s | CPU s a step | peak memory, MB | CPU ÷ bare loop | CPU ÷ DDP | loss |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for runner in runners:
        tokens = BATCH * LENGTH / statistics.median(runner.wall)
        cpu = statistics.median(runner.cpu)
        base = ratio(runner.cpu, by_title[BARE].cpu) if BARE in by_title else ""
        two = runner.contender.workers > 1 and DDP in by_title
        ddp = ratio(runner.cpu, by_title[DDP].cpu) if two else ""
        yield (
            f"| {runner.contender.title} | {tokens:,.0f} | {cpu:.3f} | {runner.memory / 1e6:,.0f} "
            f"| {base} | {ddp} | {runner.loss:.3f} |"
        )


def goals(
    runners: Sequence[Runner], steps: int, starts: tuple[list[float], list[float]]
) -> Iterator[str]:
    """Yield what was aimed at and what was reached."""
    by = {runner.contender.title: runner for runner in runners}
    ours = by[OURS].cpu
    for name, peer, goal in (("bare loop", BARE, 0.97), ("Trainer", TRAINER, 1.0)):
        found = statistics.median(ratios_of(by[peer].cpu, ours))
        shown = ratio(by[peer].cpu, ours)
        yield f"- speed of one worker ÷ {name}: {shown}; goal ≥ {goal}: {verdict(found >= goal)}"
    for title, goal in (("ZeRO-1", 1.15), ("ZeRO-2", 1.15), ("FSDP2", 1.5)):
        sharded = by[f"ours, 2 workers, {title}"].cpu
        found = statistics.median(ratios_of(sharded, by[DDP].cpu))
        shown = ratio(sharded, by[DDP].cpu)
        yield f"- CPU time of {title} ÷ DDP: {shown}; goal ≤ {goal}: {verdict(found <= goal)}"
    share = DEFAULT_INTERVAL / steps
    for name, figures in (("CPU", "cpu"), ("wall", "wall")):
        pairs = zip(getattr(by[SAVING], figures), getattr(by[OURS], figures), strict=True)
        cost = statistics.median((a / b - 1) / share for a, b in pairs)
        yield (
            f"- a checkpoint every {DEFAULT_INTERVAL} steps: {cost:+.1%} of {name} time; "
            f"goal ≤ 5 %: {verdict(cost <= 0.05)}"
        )
    mine, rays = (statistics.median(each) for each in starts)
    yield (
        f"- start-up to the first step: {mine:.1f} s, Ray's own {rays:.1f} s: "
        f"{mine - rays:+.1f} s; goal ≤ +3 s: {verdict(mine - rays <= 3)}"
    )


def report(options: argparse.Namespace) -> str:
    """Measure and return the page."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(ROOT.parent):
        given = prepare(Path(name))
        starts = ([], []) if options.only else startup(given, 1 if options.quick else 3)
        runners = race(given, options)
    head = [
        "# Pre-training beside its peers",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} CPUs, load "
        f"{os.getloadavg()[0]:.1f}; torch {_version('torch')}, ray {_version('ray')}, transformers "
        f"{_version('transformers')}. `python benchmarks/pretraining.py --rounds {options.rounds} "
        f"--steps {options.steps}`",
        "",
        f"BERT of {given['parameters'] / 1e6:.1f} M parameters ({LAYERS} layers of {WIDTH}), "
        f"batches of {BATCH} × {LENGTH} tokens, fp32, one thread per process. The first lines of "
        "the script say what is compared, and how.",
        "",
    ]
    goal_lines = [] if options.only else goals(runners, options.steps, starts)
    return "\n".join([*head, *table(runners), "", *goal_lines, ""])


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def main() -> None:
    """Print the page, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--only", default="", help="contenders by regular expression; no goals")
    parser.add_argument("--write", action="store_true", help="write benchmarks/pretraining.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = 1, 5  # ten steps, after which the first loss is logged
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore::FutureWarning",  # of torch, about what DeepSpeed calls
    }
    page = report(options)
    print(page)
    if options.write:
        (ROOT / "pretraining.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
