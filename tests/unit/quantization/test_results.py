"""Typed results: files of earlier releases, unknown keys, light imports."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from orchestrator.quantization.results import ParetoReport, QuantizeMetrics

# As releases before schema_version wrote it.
EARLIER = {
    "goal": {"max_accuracy_drop": 0.02, "max_latency_ms": None, "allow_float": False},
    "split": "validation",
    "latency_shape": [1, 128],
    "points": [
        {
            "name": "float",
            "digest": "4f53cda18c2b",
            "integer_units": 0,
            "units": 1,
            "accuracy": 0.9,
            "accuracy_drop": 0.0,
            "paired": {
                "texts": 10,
                "reference": 0.9,
                "accuracy": 0.9,
                "drop": 0.0,
                "gained": 0,
                "lost": 0,
                "p_value": 1.0,
                "interval": [-0.16, 0.16],
            },
            "error": {"kl": 0.0, "cosine": 0.0},
            "latency": {"cpu_ms": 1.5, "wall_ms": 1.6, "ratio": 1.0, "spread": [1.0, 1.0]},
            "plan": {"encoder.layers.0.attention.qkv": "fp32"},
            "latency_ms": 1.5,
            "predicted_kl": 0.0,
            "on_front": True,
            "chosen": False,
        }
    ],
}


def test_files_of_earlier_releases_are_version_1():
    report = ParetoReport.model_validate(EARLIER)
    assert report.schema_version == 1
    assert report.points[0].paired.interval == (-0.16, 0.16)
    (point,) = EARLIER["points"]
    found = report.model_dump(mode="json", exclude_unset=True)
    assert found == {**EARLIER, "points": [point]}
    assert report.points[0].latency.range == (1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"extra": 1}, "extra"),
        ({"split": None}, "split"),
    ],
)
def test_files_of_later_releases_and_other_files_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ParetoReport.model_validate(EARLIER | change)


def test_metrics_without_a_figure_are_refused_by_its_name():
    with pytest.raises(ValidationError, match="speedup_over_torch"):
        QuantizeMetrics.model_validate({"target": "topic", "accuracy": 0.9})


def test_results_load_without_the_heavy_libraries():
    code = (
        "import sys, orchestrator.quantization.results; "
        "print({'torch', 'ray', 'onnx', 'onnxruntime', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert shown.stdout.strip() == "set()", shown.stderr


def test_metrics_of_a_package_that_only_embeds_have_no_target():
    figures = dict.fromkeys(("latency_ms", "latency_float_ms", "latency_torch_ms"), 1.0)
    figures |= {"speedup_over_float": 1.0, "speedup_over_torch": 1.0}
    counts = {"integer_units": 1, "units": 1, "bytes": 1, "bytes_float": 1}
    stored = {"cosine": 0.99, "plan_name": "full", **figures, **counts}  # a manifest has no null
    assert QuantizeMetrics.model_validate(stored | {"plan": {}}).target is None
