"""The search without Ray: journal, order of choice, files, a third-party calibrator."""

import json

import pytest

from orchestrator.config import load_config
from orchestrator.errors import InputError, StageError
from orchestrator.quantization import worker
from orchestrator.quantization.artifact import summary, write_package
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.plans import PlanFile
from orchestrator.quantization.results import (
    PARETO_FILE,
    PROBE_FILE,
    REPORT_FILE,
    ParetoReport,
    Probe,
    QuantizationReport,
)
from orchestrator.quantization.search import Search, broken_bounds
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.pools import InProcess

GEMMS = 4  # query-key-value, output, up, down of the one layer


@pytest.fixture
def make_config(tmp_path):
    commit_tiny(Zoo(tmp_path / "zoo"))
    rows = [
        {"text": f"{SENTENCES[index % 6]} {index}", "label": LABELS[index % 3]}
        for index in range(90)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(**changes):
        settings = {
            "run": {"name": "q", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "tiny",
            "data": {"source": f"files:{tmp_path / 'rows.jsonl'}"},
            "goal": {"max_accuracy_drop": 1.0},
            "kinds": ["static_s7", "row_s7"],
            "calibration_rows": 8,
            "mixed_plans": 1,
            "latency": {"rounds": 3, "calls": 1, "length": 8},
            **changes,
        }
        (tmp_path / "job.yaml").write_text(json.dumps(settings))
        return load_config(QuantizeConfig, tmp_path / "job.yaml")

    return make


def search(config):
    prepared = prepare(config)
    with RunFolder.open(config, "quantize") as folder:
        pool = InProcess()
        choice = Search(config, prepared, folder, pool).run()
    return prepared, choice, pool.calls


def test_a_second_search_measures_only_the_written_file(make_config):
    _, first, calls = search(make_config())
    assert calls.count("calibrate") == 1
    assert calls.count("measure_errors") == GEMMS
    assert calls.count("measure_plan") == len(first.points)
    _, again, calls = search(make_config())
    assert set(calls) == {"float_outputs", "measure_artifact"}
    assert again.points == first.points
    assert again.prices == first.prices


def test_a_plan_whose_file_breaks_the_goal_is_skipped(make_config, monkeypatch):
    measured = []

    def broken_once(inputs, model, plan, length, original=worker.measure_artifact):
        found = original(inputs, model, plan, length)
        measured.append(plan)
        if len(measured) > 1:
            return found
        test = found.accuracy.test.model_copy(update={"drop": 0.9})
        accuracy = found.accuracy.model_copy(update={"test": test})
        return found.model_copy(update={"accuracy": accuracy})

    monkeypatch.setattr(worker, "measure_artifact", broken_once)
    _, choice, _ = search(make_config(goal={"max_accuracy_drop": 0.5}))
    assert len(measured) == 2
    assert choice.point.plan == measured[1] != measured[0]


def test_a_goal_out_of_reach_names_the_bound_and_the_measured_plans(make_config):
    with pytest.raises(StageError, match=r"max_latency_ms 1e-09[\s\S]*fully_quant\.row_s7"):
        search(make_config(goal={"max_latency_ms": 1e-9}))


def test_every_file_reads_back_with_the_class_that_wrote_it(make_config, tmp_path):
    config = make_config()
    prepared, choice, _ = search(config)
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(folder, config, prepared, choice)

    def read(model, name):
        return model.model_validate_json((folder / name).read_text())

    front, report = read(ParetoReport, PARETO_FILE), read(QuantizationReport, REPORT_FILE)
    (chosen,) = [point for point in front.points if point.chosen]
    assert chosen.name == choice.point.name == report.plan.name
    assert chosen.plan == report.plan.units == PlanFile.read(folder).units
    assert report.audit.integer_units == chosen.integer_units > 0
    assert report.artefact_sha256 == choice.measured.sha256
    assert read(Probe, PROBE_FILE).texts == tuple(prepared.probe)
    figures = summary(prepared, choice)
    assert figures.bytes == report.sizes["model.onnx"] < figures.bytes_float
    assert figures.latency_ms == report.latency.int8.cpu_ms
    assert figures.speedup_over_float == 1 / report.latency.int8.ratio


def test_a_model_file_changed_after_the_measurement_is_not_packaged(make_config, tmp_path):
    config = make_config()
    prepared, choice, _ = search(config)
    model = choice.folder / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(StageError, match="changed after it was measured"):
        write_package(tmp_path, config, prepared, choice)


def test_shorter_limits_are_measured_against_the_whole_texts(make_config, tmp_path):
    config = make_config(lengths=[6, 5], goal={"max_latency_ms": 1e3})
    prepared, choice, calls = search(config)
    cut = [point for point in choice.points if point.length is not None]
    assert {point.length for point in cut} == {5, 6}
    assert all(point.name.endswith(f"/{point.length}") for point in cut)
    assert calls.count("measure_plan") == len(choice.points)
    whole = next(point for point in choice.points if point.name == "float")
    assert all(point.paired.reference == whole.paired.accuracy for point in cut)
    assert all(point.divergence.kl > 10 * whole.divergence.kl for point in cut)
    texts = prepared.inputs.cut[5].test
    assert max(batch["input_ids"].shape[1] for batch in texts.batches) == 5
    same = (point for point in cut if point.plan == choice.point.plan)
    chosen = next(point for point in same if point.length == 5)
    measured = worker.measure_artifact(
        prepared.inputs.calibrated(worker.calibrate(prepared.inputs)),
        (choice.folder / "model.onnx").read_bytes(),
        choice.point.plan,
        chosen.length,
    )
    assert measured.accuracy.validation.error.kl == pytest.approx(chosen.divergence.kl, rel=1e-3)


@pytest.mark.parametrize("lengths", [[8, 16], [64]])
def test_a_length_that_is_not_shorter_is_refused(make_config, lengths):
    with pytest.raises(InputError, match="not shorter than the limit"):
        prepare(make_config(lengths=lengths, max_length=16))


def test_both_bounds_of_the_written_file_are_named(make_config):
    config = make_config()
    _, choice, _ = search(config)
    goal = config.goal.model_copy(update={"max_accuracy_drop": -1.0, "max_latency_ms": 1e-9})
    validation, test, time = broken_bounds(choice.measured, goal)
    assert "on validation rows" in validation
    assert "on test rows" in test
    assert "a call takes" in time


def test_a_calibrator_of_another_package_measures_the_ranges(make_config, tmp_path, monkeypatch):
    (tmp_path / "halving_plugin.py").write_text(
        "from typing import Literal\n"
        "from orchestrator.quantization.calibrators.max import MaxCalibrator\n"
        "from orchestrator.quantization.registries import CalibratorConfig\n"
        "class Half(MaxCalibrator):\n"
        "    class Config(CalibratorConfig):\n"
        "        type: Literal['half'] = 'half'\n"
        "        share: float = 0.5\n"
        "    def ranges(self, model, texts):\n"
        "        share, found = self.config.share, super().ranges(model, texts)\n"
        "        return {u: (share * low, share * high) for u, (low, high) in found.items()}\n"
    )
    info = tmp_path / "halving_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[orchestrator.components]\ncalibrator.half = halving_plugin:Half\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    whole = prepare(make_config()).inputs
    part = prepare(make_config(calibrator={"type": "half", "share": 0.25})).inputs
    expected = worker.calibrate(whole)
    assert len(expected) == GEMMS
    assert worker.calibrate(part) == {
        unit: (0.25 * low, 0.25 * high) for unit, (low, high) in expected.items()
    }
