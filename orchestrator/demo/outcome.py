"""The report page of the demo: curves, matrix, bracket, accuracy matrix, Pareto front, latency."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.report import sections
from orchestrator.report.page import Page
from orchestrator.storage import atomic_write_text

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
            "test accuracy of the winner": f"{selected['test_accuracy']:.3f}",
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
            sections.continual(life.learned.read_json("evaluation/accuracy_matrix.json")),
            sections.quantization(life.quantized.read_json("evaluation/pareto.json")),
            sections.serving(traffic.latencies_ms, traffic.failures, traffic.examples),
        ],
    )
    atomic_write_text(path, page.html())
