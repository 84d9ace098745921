"""Runs the demo: every step is the job a user would submit, with its preset and its zoo.

The report page of the demo: curves, matrix, bracket, accuracy matrix, Pareto front, latency.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import JobResult
from orchestrator.demo.config import DemoConfig
from orchestrator.demo.lifecycle import Lifecycle
from orchestrator.demo.narrator import Narrator
from orchestrator.report import sections
from orchestrator.report.page import Page
from orchestrator.storage import RunFolder, atomic_write_json, atomic_write_text

if TYPE_CHECKING:
    from orchestrator.demo.lifecycle import Lifecycle


def write_report(life: "Lifecycle", path: Path) -> None:
    """Write the page."""
    told, traffic, selected = life.narrator.figures, life.traffic, life.selection()
    models = told["pretrain"]["models"]
    histories = {each.name: each.history() for each in life.pretrained}
    page = Page(
        title="The whole life of a model",
        subtitle=f"{life.quantized.ref}, from a corpus to an HTTP answer on this machine",
        facts={
            "models pre-trained": str(len(life.pretrained)),
            "of brute force's cost": f"{told['select']['share_of_brute_force']:.0%}",
            "test accuracy of the winner": f"{selected.test_accuracy:.3f}",
            "GEMMs in INT8": f"{told['quantize']['integer_units']} of {told['quantize']['units']}",
            "HTTP p99": f"{traffic.quantile(99):.1f} ms",
        },
        sections=[
            sections.pretraining(
                {name: history for name, history in histories.items() if history is not None},
                models[0]["unigram entropy"],
                models,
            ),
            sections.performance_matrix(selected),
            sections.selection(selected),
            sections.continual(life.stream_evaluation()),
            sections.quantization(life.quantized.read_json("evaluation/pareto.json")),
            sections.serving(traffic.latencies_ms, traffic.failures, traffic.examples),
        ],
    )
    atomic_write_text(path, page.html())


STAGE = "demo"
SUMMARY, REPORT = "summary.json", "report.html"


def check(config: DemoConfig) -> str:
    """Return the ``--check`` text of every job of the demo that needs no package yet."""
    from orchestrator.pretraining.runner import check as check_pretraining

    life = Lifecycle(config, Narrator())
    return "\n\n".join(check_pretraining(job) for job in life.pretraining_jobs())


def run(config: DemoConfig) -> JobResult:
    """Carry models through their whole life; a second call repeats only the serving.

    Raises:
        InputError: Not enough CPUs, or a busy port.
        InterruptedRunError: Stopped; the same command continues.
    """
    from orchestrator.cluster.session import ray_session

    narrator = Narrator()
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.open(config, STAGE))
        life = Lifecycle(config, narrator)
        cpus = config.cluster.workers * config.cluster.cpus_per_worker
        stack.enter_context(ray_session(config.cluster, f"cluster.workers: {cpus:g} CPU", cpus))
        life.pretrain()
        life.benchmark()
        life.select()
        life.learn_continually()
        life.quantize()
        life.serve()
        return _finish(life, folder.path)


def _finish(life: Lifecycle, folder: Path) -> JobResult:
    narrator = life.narrator
    narrator.chapter("result", "Where everything is")
    narrator.remember(seconds=round(narrator.seconds(), 1))
    report = folder / REPORT
    write_report(life, report)
    atomic_write_json(folder / SUMMARY, json.loads(json.dumps(narrator.figures, default=str)))
    narrator.say(f"packages   {life.config.run.zoo}   (orchestrator zoo list --zoo …)")
    narrator.say(f"report     {report}")
    narrator.say(f"figures    {folder / SUMMARY}")
    narrator.say(f"served     {life.quantized.ref} in {narrator.seconds():.0f} s altogether")
    return JobResult(
        package=life.quantized.ref,
        metrics={"seconds": narrator.figures["result"]["seconds"], "report": str(report)},
        run_dir=str(folder),
    )
