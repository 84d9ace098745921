"""Goodput of pre-training while its nodes are drained, or its workers killed, once a minute.

``orchestrator pretrain`` runs on hosts made of network namespaces, a Ray node in each: a head
without CPUs, one more host than there are workers, storage that all share. Fault after fault hits a
worker that trains:

* drain: its node is announced to be taken away in 30 s, as for a spot instance, and is killed then;
  a new node joins in its place;
* kill: its process is killed with SIGKILL.

Goodput is what was trained as a share of what would have been trained without faults: the number of
different steps done, times the usual time of a step, over the time that passed. That time is the
median of the steps before and after which nothing happened: what spare processes take from the
steps beside their start counts as lost. A step is stretched by a pause, so that its length hardly
depends on what else the machine does; that of a restart does.

Needs root (see tests/chaos/README.md). Run: `python benchmarks/reliability.py --write` (about 10
minutes), `--quick` for one fault of each kind.
"""

import argparse
import importlib
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the hosts and the observed job are those of the tests
support: Any = importlib.import_module("tests.support.hosts")
steady: Any = importlib.import_module("tests.support.steady")

PERIOD_S = 60.0
NOTICE_S = 30.0
PAUSE_S = 0.1
EVERY = 50
"""Steps between two checkpoints: about five seconds."""
WARM = 3
"""First steps of a group whose time is not that of a usual step."""
DEADLINE_S = 300.0
GOALS = {"drain": 0.90, "kill": 0.70}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Cost of the faults of one kind.

    Attributes:
        kind: ``drain`` or ``kill``.
        steps: Different steps done.
        repeated: Steps done twice.
        standstill: Seconds without a step around each fault; of one that it had not come back from
            when the time was over, those until then.
        spare: Restarts in a process that was there before the fault.
        pace: Median seconds of a step that nothing happened to.
        seconds: Time that passed.
    """

    kind: str
    steps: int
    repeated: int
    standstill: Sequence[float]
    spare: int
    pace: float
    seconds: float

    @property
    def goodput(self) -> float:
        """Share of the steps without faults."""
        return self.steps * self.pace / self.seconds


@dataclass
class Cluster:
    """A head without CPUs and hosts with one each.

    Attributes:
        hosts: The head's first.
        stack: Ends what was started.
    """

    hosts: Sequence[Any]
    stack: ExitStack
    address: str = field(init=False)

    def __post_init__(self) -> None:
        self.address = f"{self.hosts[0].address}:6379"
        support.start_node(self.hosts[0], None, self.stack, cpus=0)
        for host in self.hosts[1:]:
            support.start_node(host, self.address, self.stack)

    def pids(self) -> set[int]:
        """Return all processes of the hosts that may have workers."""
        return {pid for host in self.hosts[1:] for pid in host.pids()}

    def host_of(self, pid: int) -> Any:
        """Return the host on which a process runs."""
        return next(host for host in self.hosts if pid in host.pids())

    def drain(self, row: Row, told: float) -> None:
        """Announce that the node of a worker goes, take it away, let another one join."""
        host = self.host_of(row["pid"])
        support.drain(self.hosts[0], self.address, support.node_of(host), NOTICE_S)
        time.sleep(max(0.0, told + NOTICE_S - time.time()))
        host.kill()
        support.start_node(host, self.address, self.stack)


def measure(kind: str, folder: Path, workers: int, faults: int) -> Outcome:
    """Train while faults of one kind happen; returns what they cost."""
    detection = support.shipped_detection()
    with ExitStack() as stack:
        cluster = Cluster(stack.enter_context(support.hosts(workers + 2, detection)), stack)
        run, log = steady.Run.named(folder, kind, PAUSE_S), folder / f"{kind}.log"
        overrides = run.overrides(
            *(f"cluster.address={cluster.address}", f"cluster.workers={workers}"),
            f"train.checkpoint_every_steps={EVERY}",
        )
        command = (sys.executable, "-m", "tests.support.steady", *overrides)
        driver = cluster.hosts[0].start(*command, log=log, cwd=ROOT)

        def alive() -> None:
            if driver.poll() is not None:
                raise RuntimeError(log.read_text()[-6000:])

        run.wait(lambda row: row["step"] > WARM, alive, DEADLINE_S)
        began, hits, there = time.time(), list[float](), list[set[int]]()
        row: Row = {"pid": 0}
        for number in range(faults):
            time.sleep(max(0.0, began + (number + 0.5) * PERIOD_S - time.time()))
            alive()
            row = run.wait(lambda row, hit=row: row["pid"] != hit["pid"], alive, DEADLINE_S)
            there.append(cluster.pids())
            hits.append(time.time())
            if kind == "drain":
                cluster.drain(row, hits[-1])
            else:
                os.kill(row["pid"], 9)
        time.sleep(max(0.0, began + faults * PERIOD_S - time.time()))
        alive()
        rows = [row for row in run.rows() if row["at"] >= began]
        return outcome(kind, rows, there, began)


def outcome(kind: str, rows: Sequence[Row], there: Sequence[set[int]], began: float) -> Outcome:
    """Return the figures of a run.

    Args:
        kind: ``drain`` or ``kill``.
        rows: The steps, as rank 0 did them.
        there: Processes there were at each fault.
        began: Time of the beginning; the end is now.
    """
    seconds = time.time() - began
    steps = {row["step"] for row in rows}
    pairs = list(itertools.pairwise(rows))
    usual = [
        after["at"] - before["at"]
        for before, after in pairs
        if before["pid"] == after["pid"] and before["step"] >= before["first"] + WARM
    ]
    still = [after["at"] - before["at"] for before, after in pairs if before["pid"] != after["pid"]]
    if len(still) < len(there):
        still.append(began + seconds - rows[-1]["at"])
    later = [after["pid"] for before, after in pairs if before["pid"] != after["pid"]]
    return Outcome(
        kind=kind,
        steps=len(steps),
        repeated=len(rows) - len(steps),
        standstill=still,
        spare=sum(pid in pids for pid, pids in zip(later, there, strict=False)),
        pace=statistics.median(usual),
        seconds=seconds,
    )


def page(found: Sequence[Outcome], options: argparse.Namespace, load: tuple[float, float]) -> str:
    """Return the page."""
    lines = [
        "# Goodput under faults",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} CPUs, load "
        f"{load[0]:.1f} at the start and {load[1]:.1f} at the end, own processes included; a "
        "load far above the number of CPUs is other work, which lengthens each restart; torch "
        f"{metadata.version('torch')}, ray {metadata.version('ray')}. "
        f"`python benchmarks/reliability.py --workers {options.workers} --faults {options.faults}`",
        "",
        f"A fault each {PERIOD_S:.0f} s hits a worker of a run on {options.workers} worker(s); "
        f"a step takes about {PAUSE_S:g} s, a checkpoint is written every {EVERY} steps. The first "
        "lines of the script say what the faults are and how goodput is counted.",
        "",
        "| fault | number | steps | repeated | s/step | standstill s: median (worst) | restarts in "
        "a process that was there before | goodput |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.kind} | {len(each.standstill)} | {each.steps:,} | {each.repeated} | "
        f"{each.pace:.3f} | {statistics.median(each.standstill):.1f} "
        f"({max(each.standstill):.1f}) | {each.spare} | "
        f"{each.goodput:.0%} |"
        for each in found
    ]
    lines.append("")
    for each in found:
        goal, repeats = GOALS[each.kind], each.kind == "kill" or each.repeated == 0
        verdict = "reached" if each.goodput >= goal else "**missed**"
        lines.append(
            f"- goodput under a {each.kind} each minute: {each.goodput:.0%}; goal ≥ "
            f"{goal:.0%}: {verdict}"
        )
        if each.kind == "drain":
            lines.append(
                f"- steps repeated after a drain: {each.repeated}; goal 0: "
                f"{'reached' if repeats else '**missed**'}"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Print the page, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--faults", type=int, default=4, help="faults of each kind, one a minute")
    parser.add_argument("--quick", action="store_true", help="one fault of each kind")
    parser.add_argument("--write", action="store_true", help="write benchmarks/reliability.md")
    options = parser.parse_args()
    options.faults = 1 if options.quick else options.faults
    reason = support.why_not()
    if reason is not None:
        print(f"not measured: {reason}")
        return
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        found = [measure(kind, Path(name), options.workers, options.faults) for kind in GOALS]
    text = page(found, options, (before, os.getloadavg()[0]))
    print(text)
    if options.write:
        (ROOT / "benchmarks" / "reliability.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
