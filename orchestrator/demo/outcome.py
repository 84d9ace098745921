"""The report page of the demo: curves, matrix, bracket, accuracy matrix, Pareto front, latency."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from orchestrator.report import figures
from orchestrator.report.page import Page, Section, table
from orchestrator.storage import atomic_write_text

if TYPE_CHECKING:
    from orchestrator.demo.lifecycle import Lifecycle


def write_report(life: "Lifecycle", path: Path) -> None:
    """Write the page."""
    told = life.narrator.figures
    page = Page(
        title="The whole life of a model",
        subtitle=f"{life.quantized.ref}, from a corpus to an HTTP answer on this machine",
        facts={
            "models pre-trained": str(len(life.pretrained)),
            "of brute force's cost": f"{told['select']['share_of_brute_force']:.0%}",
            "test accuracy of the winner": f"{told['select']['test_accuracy']:.3f}",
            "GEMMs in INT8": f"{told['quantize']['integer_units']} of {told['quantize']['units']}",
            "HTTP p99": f"{life.traffic.quantile(99):.1f} ms",
        },
        sections=[
            _pretraining(life),
            _matrix(life),
            _selection(life),
            _continual(life),
            _quantization(life),
            _serving(life),
        ],
    )
    atomic_write_text(path, page.html())


def _pretraining(life: "Lifecycle") -> Section:
    histories = {}
    for package in life.pretrained:
        history = package.history()
        if history is not None:
            histories[package.name] = history
    rows = life.narrator.figures["pretrain"]["models"]
    return Section(
        "Pre-training",
        "Thin lines are training loss, thick ones validation; each model must come below the "
        "entropy of the words alone.",
        (figures.learning_curves(histories, rows[0]["unigram entropy"]), table(rows)),
    )


def _matrix(life: "Lifecycle") -> Section:
    report = life.selection()
    matrix = pd.DataFrame.from_dict(report["matrix"], orient="index")
    linkage = report["linkage"]
    tree = None
    if linkage is not None:
        matrix = matrix.loc[linkage["models"]]
        tree = np.asarray(linkage["matrix"], dtype=float)
    return Section(
        "Performance matrix",
        "Final test accuracy of every candidate on every benchmark task; models that fail and "
        "succeed together are joined early in the tree.",
        (figures.matrix_heatmap(matrix, tree),),
    )


def _selection(life: "Lifecycle") -> Section:
    report = life.selection()
    ranking = [
        {
            "place": row["place"],
            "model": row["model"],
            "epochs": row["epochs"],
            "why": row["reason"],
            "winner": row["status"] == "winner",
        }
        for row in report["ranking"]
    ]
    ledger = [{"cost": name.replace("_", " "), "": v} for name, v in report["ledger"].items()]
    return Section(
        f"Selection for {report['target']['name']}",
        f"Majority class {report['majority_accuracy']:.3f}, winner {report['test_accuracy']:.3f} "
        "on test rows.",
        (
            figures.halving_bracket(report["bracket"]),
            table(ranking, highlight="winner"),
            table(ledger),
        ),
    )


def _continual(life: "Lifecycle") -> Section:
    evaluation = life.learned.read_json("evaluation/accuracy_matrix.json")
    numbers = [
        {"figure": name.replace("_", " "), "": value}
        for name, value in evaluation["figures"].items()
    ]
    return Section(
        "Continual learning",
        "Accuracy on the task of a column after learning the task of a row: a column that "
        "darkens downwards is being forgotten.",
        (figures.accuracy_matrix(evaluation["matrix"], evaluation["tasks"]), table(numbers)),
    )


def _quantization(life: "Lifecycle") -> Section:
    pareto = life.quantized.read_json("evaluation/pareto.json")
    points = [
        {**point, "label": point["name"] if point["on_front"] else None}
        for point in pareto["points"]
    ]
    rows = [
        {
            "plan": point["name"],
            "accuracy": point["accuracy"],
            "ms": point["latency_ms"],
            "chosen": point["chosen"],
        }
        for point in points
    ]
    return Section(
        "Quantization",
        f"Every point is a measured ONNX session (accuracy on {pareto['split']} rows, one text "
        "at a time, one thread).",
        (figures.pareto_front(points), table(rows, highlight="chosen")),
    )


def _serving(life: "Lifecycle") -> Section:
    rows = [{"text": text, "answer": answer} for text, answer in life.traffic.examples]
    return Section(
        "Serving",
        f"{life.traffic.requests} requests over HTTP, {life.traffic.failures} failed.",
        (figures.latency_histogram(life.traffic.latencies_ms), table(rows)),
    )
