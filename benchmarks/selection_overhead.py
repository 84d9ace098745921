"""Seconds of a selection beside those of its training, and beside brute force.

Tiny encoders of several components choose the package for a small text task, through the command
line, each job with a private Ray: ``select``, then ``benchmark`` of the same packages on the same
task, which trains all of them to the end; both take turns. Overhead is the wall time of ``select``
minus the slot seconds of its training divided by the slots, and minus the start of Ray. CPU seconds
are those of the job with all its processes; they hardly depend on what else the machine does. The
run of minutes has wider encoders: training is what fills it, as it does for real packages.

Run: `python benchmarks/selection_overhead.py [--write]` (about 20 minutes on 2 idle cores).
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]
import torch
from selection import PAGE, with_section

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.selection.results import REPORT_NAME, JournalRow, SelectionReport
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.runner import JOURNAL_NAME
from orchestrator.storage import atomic_write_json
from orchestrator.zoo import Zoo

HEADING = "Seconds beside training"
TARGET = "builtin:pydoc/library"
TRANSFORMER: dict[str, object] = {"type": "transformer", "num_layers": 2, "num_heads": 2}
ENCODERS: tuple[dict[str, object], ...] = (
    {**TRANSFORMER, "intermediate_size": 128},
    {"type": "bilstm", "num_layers": 1},
    {"type": "gatedcnn", "num_layers": 2},
    {**TRANSFORMER, "mask": "causal"},
)
FINE_TUNE = {"epochs": 3, "global_batch_size": 16, "learning_rate": 2e-3}
ENDLESS = {**FINE_TUNE, "epochs": 2000}
RAY_STARTED = re.compile(r"started a private Ray .* in ([\d.]+) s")
GOAL_S, BUDGET_S, BUDGET_GOAL_S = 15.0, 60, 66
WIDE = 384
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Job:
    """One job of the command line.

    Attributes:
        wall: Seconds, Ray's start and end included.
        cpu: CPU seconds of all its processes.
        ray: Seconds of Ray's start.
        ended: Unix time.
        run: Its folder.
        load: Load of the machine when it began.
    """

    wall: float
    cpu: float
    ray: float
    ended: float
    run: Path
    load: float

    @property
    def rows(self) -> list[JournalRow]:
        """Trained epochs."""
        return Journal(self.run / JOURNAL_NAME).rows

    def overhead(self, slots: float) -> float:
        """Seconds that are neither training nor the start of Ray."""
        return self.wall - self.ray - sum(r.seconds * r.slots for r in self.rows) / slots


def commit_zoo(root: Path, packages: int, width: int = 64) -> None:
    """Commit untrained encoders: what selection costs does not depend on how good they are."""
    rows = load_task(DatasetSpec(source=TARGET, max_rows=1000)).train.texts
    processor = TextProcessor.train(rows, 2000, max_length=64)
    zoo = Zoo(root)
    for index in range(packages):
        config = ModelConfig.model_validate(
            {
                "hidden_size": width,
                "vocab_size": processor.vocab_size,
                "max_position_embeddings": 64,
                "embedding": {"parts": ["word", "pos"]},
                "encoder": ENCODERS[index % len(ENCODERS)],
                "target": ["mlm"],
            }
        )
        torch.manual_seed(index)
        name = f"encoder-{width}-{index:02d}"
        with zoo.draft(name, kind="pretrained", producer={"stage": "benchmark"}) as draft:
            write_model(draft.path, build_model(config), config)
            processor.save(draft.path)
            draft.commit()


def run_job(verb: str, folder: Path, name: str, config: Mapping[str, object]) -> Job:
    """Run a job of the command line to its end."""
    places = {"dir": str(folder / "runs"), "zoo": str(folder / "zoo"), "name": name}
    path = folder / f"{name}.json"
    atomic_write_json(path, {"run": places, **config})
    code = "import sys; from orchestrator.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, verb, "--config", str(path)]
    load, started = os.getloadavg()[0], time.perf_counter()
    with path.with_suffix(".log").open("w+") as log, _CpuMeter() as meter:
        subprocess.run(command, check=True, stdout=log, stderr=log, timeout=TIMEOUT_S)
        log.seek(0)
        found = RAY_STARTED.search(log.read())
    wall, ray = time.perf_counter() - started, float(found[1]) if found else 0.0
    return Job(wall, meter.seconds, ray, time.time(), folder / "runs" / name, load)


class _CpuMeter:
    """CPU seconds of all descendants of this process.

    Ray reaps its workers without adding their times to its own, so that they are looked at while
    they live, twice a second.
    """

    def __init__(self) -> None:
        self._times: dict[tuple[int, float], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def seconds(self) -> float:
        """CPU seconds so far."""
        return sum(self._times.values())

    def __enter__(self) -> "_CpuMeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    key = (process.pid, process.create_time())
                    self._times[key] = times.user + times.system


def compare(folder: Path, rows: int, repeats: int, slots: float) -> list[str]:
    """`select` and brute force in turns."""
    target = {"source": TARGET, "max_rows": rows}
    text = [
        "| | wall (s) | Ray's start (s) | CPU (s) | epochs | overhead (s) | load |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    selects, brutes = [], []
    for index in range(repeats):
        config: dict[str, object] = {"target": target, "fine_tune": FINE_TUNE}
        config["package"] = f"chosen-{index}"
        selects.append(run_job("select", folder, f"select-{index}", config))
        matrix = str(folder / f"{index}.parquet")
        config = {"datasets": [target], "matrix": matrix, "fine_tune": FINE_TUNE}
        brutes.append(run_job("benchmark", folder, f"brute-{index}", config))
        for title, job in (("select", selects[-1]), ("brute force", brutes[-1])):
            text.append(
                f"| {title} | {job.wall:.1f} | {job.ray:.1f} | {job.cpu:.1f} | {len(job.rows)} | "
                f"{job.overhead(slots):.1f} | {job.load:.0f} |"
            )
            sys.stderr.write(text[-1] + "\n")
    overhead = min(job.overhead(slots) for job in selects)
    ratio = median(a.wall / b.wall for a, b in zip(selects, brutes, strict=True))
    cpu = median(a.cpu / b.cpu for a, b in zip(selects, brutes, strict=True))
    return [
        *text,
        "",
        goal("seconds of `select` beside its training, least", overhead, GOAL_S, "s"),
        goal("wall time of `select` ÷ brute force", ratio, 1.0),
        f"- CPU seconds of `select` ÷ brute force: {cpu:.2f}",
    ]


def budget(folder: Path, rows: int) -> list[str]:
    """A run that a budget of seconds ends."""
    target = {"source": TARGET, "max_rows": rows}
    config = {"target": target, "package": "budget", "fine_tune": ENDLESS}
    job = run_job("select", folder, "budget", {**config, "budget": {"seconds": BUDGET_S}})
    ledger = SelectionReport.read(job.run / REPORT_NAME).ledger
    held = ledger.wall_s * ledger.slots
    counted = sum(row.slot_seconds for row in ledger.rows)
    idle = sum(row.slot_seconds for row in ledger.rows if row.phase == "idle")
    first = min(row.finished_at - row.seconds - row.startup_s for row in job.rows)
    what = f"budget.seconds of {BUDGET_S}, load {job.load:.0f}"
    off = 100 * abs(counted / held - 1)
    return [
        goal(f"{what}, first trial to the end", job.ended - first, BUDGET_GOAL_S, "s"),
        goal(f"{what}, ledger beside wall time x slots", off, 10.0, "%"),
        f"- {what}: {100 * idle / held:.0f} % of the slots' time is idle; the survivor is tiny "
        "and trains on one slot",
    ]


def long_run(folder: Path, packages: int, rows: int, slots: float) -> list[str]:
    """Runs of minutes: the share that is neither training nor Ray's start, and INT8 checks."""
    commit_zoo(folder / "zoo", packages, WIDE)
    config = {"target": {"source": TARGET, "max_rows": rows}, "fine_tune": FINE_TUNE}
    job = run_job("select", folder, "long", {**config, "package": "long"})
    wall = job.wall - job.ray
    share = 100 * job.overhead(slots) / wall
    what = f"{packages} packages of {WIDE} dimensions, {rows} rows, load {job.load:.0f}"
    epochs = f"{len(job.rows)} epochs in {wall:.0f} s"
    text = [goal(f"{what}, {epochs}: share beside training", share, 5.0, "%")]
    objective = {"after": "int8", "max_accuracy_drop": 0.02}
    checked = run_job(
        "select", folder, "checked", {**config, "package": "checked", "objective": objective}
    )
    extra = 100 * ((checked.wall - checked.ray) / wall - 1)
    cpu = checked.cpu / job.cpu
    text.append(goal(f"{what}, objective after INT8: more wall time", extra, 20.0, "%"))
    return [*text, f"- {what}, objective after INT8: {cpu:.2f} x the CPU seconds"]


def goal(name: str, found: float, limit: float, unit: str = "") -> str:
    """One line with its verdict."""
    verdict = "reached" if found <= limit else "**missed**"
    unit = f" {unit}" if unit else ""
    return f"- {name}: {found:.2f}{unit}; goal ≤ {limit:g}{unit}: {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=int, default=12)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--long-rows", type=int, default=4800)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--without-budget", action="store_true")
    parser.add_argument("--without-long", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    slots = float(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commit_zoo(folder / "zoo", options.packages)
        lines = compare(folder, options.rows, options.repeats, slots)
        if not options.without_budget:
            lines += ["", *budget(folder, options.rows)]
    with tempfile.TemporaryDirectory() as name:
        if not options.without_long:
            lines += long_run(Path(name), options.packages, options.long_rows, slots)
    head = f"{options.packages} packages of 64 dimensions, {options.rows} rows, {slots:g} slots.\n"
    text = "\n".join([head, *lines])
    sys.stdout.write(f"## {HEADING}\n\n{text}\n")
    if options.write:
        PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), HEADING, text), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
