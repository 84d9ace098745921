"""The search without Ray: journal, order of choice, files, a third-party calibrator."""

import json
from dataclasses import replace

import onnx
import pytest
import ray

from orchestrator.config import load_config
from orchestrator.data.rows.storage import fingerprint
from orchestrator.errors import InputError, StageError
from orchestrator.quantization import checks, runner, worker
from orchestrator.quantization.artifact import split_records, summary, write_package
from orchestrator.quantization.backends.hosts import Host, this_host
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.goals import NoPlanError
from orchestrator.quantization.inputs import prepare, read_subject
from orchestrator.quantization.methods import exhaustive
from orchestrator.quantization.plans import PlanFile, fully_quant
from orchestrator.quantization.results import (
    PARETO_FILE,
    PROBE_FILE,
    REPORT_FILE,
    ParetoReport,
    Probe,
    QuantizationReport,
)
from orchestrator.quantization.search import Search, file_misses
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.every_task import CASES, commit, data_of, load, task_of
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


def search(config, pool=None):
    prepared, pool = prepare(config), pool or InProcess()
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, pool).run()
    return prepared, choice, pool.calls


def test_a_second_search_measures_only_the_written_file(make_config):
    _, first, calls = search(make_config())
    assert calls.count("calibrate") == 1
    assert calls.count("measure_errors") == 1  # with and without norms equalized
    assert calls.count("measure_sensitivities") == 1
    assert len(first.prices.errors) == GEMMS * 2
    assert calls.count("measure_plan") == len(first.points)
    assert calls.count("measure_test") == 1
    _, again, calls = search(make_config())
    assert set(calls) == {
        "float_outputs",
        "float_margins",
        "measure_channels",
        "measure_artifact",
        "fold",
    }
    assert again.points == first.points
    assert again.prices == first.prices
    assert again.measured.test == first.measured.test


def test_the_job_measures_with_the_pool_that_a_caller_gives(make_config):
    config, pool = make_config(promotion={"max_drop": {"default": 1.0}}), InProcess()
    package = Zoo(config.run.zoo).get(runner.run(config, pool).package)
    assert package.kind == "quantized"
    assert pool.calls.count("measure_test") == 1
    assert not ray.is_initialized()


def test_test_rows_are_asked_once_and_lead_to_no_other_plan(make_config, monkeypatch):
    def broken(*arguments, original=worker.measure_test):
        found = original(*arguments)
        return found.model_copy(update={"paired": found.paired.model_copy(update={"drop": 0.9})})

    broken.__name__ = "measure_test"
    monkeypatch.setattr(worker, "measure_test", broken)
    for times in (1, 0):  # a run that is started again does not ask again
        pool = InProcess()
        with pytest.raises(
            NoPlanError, match=r"do not confirm it: max_accuracy_drop is 0\.9"
        ) as caught:
            search(make_config(goal={"max_accuracy_drop": 0.5, "statistic": "mean"}), pool)
        assert pool.calls.count("measure_test") == times
        assert pool.calls.count("measure_artifact") == 1
    found = caught.value.result["nearest_miss"]
    (missed,) = found["missed"]
    assert missed == {"limit": "max_accuracy_drop", "value": 0.9, "allowed": 0.5, "rows": "test"}
    assert found["integer_units"] > 0
    assert found["plan"]


def test_a_file_that_is_too_slow_leaves_the_place_to_the_next_plan(make_config, monkeypatch):
    measured = []

    def slow_once(*arguments, original=worker.measure_artifact):
        found, plan = original(*arguments), arguments[3]
        measured.append(plan)
        if len(measured) > 1:
            return found
        slow = found.latency.int8.model_copy(update={"cpu_ms": 1e4})
        return found.model_copy(update={"latency": found.latency.model_copy(update={"int8": slow})})

    monkeypatch.setattr(worker, "measure_artifact", slow_once)
    _, choice, _ = search(make_config(goal={"max_latency_ms": 1e3}))
    assert len(measured) == 2
    assert choice.point.plan == measured[1] != measured[0]


def test_a_goal_out_of_reach_names_the_bound_and_the_measured_plans(make_config):
    with pytest.raises(
        NoPlanError, match=r"max_latency_ms 1e-09[\s\S]*fully_quant\.row_s7"
    ) as found:
        search(make_config(goal={"max_latency_ms": 1e-9}))
    (missed,) = found.value.nearest.missed
    assert (missed.limit, missed.allowed, missed.rows) == ("max_latency_ms", 1e-9, None)


def test_the_rows_of_each_split_are_recorded_and_disjoint(make_config):
    prepared, *_ = search(make_config())
    records = split_records(prepared)
    texts = prepared.inputs.texts
    sets = [set(split.rows.texts) for split in (texts.calibration, texts.validation, texts.test)]
    assert sum(map(len, sets)) == len(set.union(*sets)) == sum(r.rows for r in records.values())
    assert records["test"].sha256 == fingerprint(texts.test.rows)
    assert len({record.sha256 for record in records.values()}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["samp", "exhaustive"])
def test_other_methods_measure_without_prices(make_config, method):
    _, choice, calls = search(make_config(method=method, kinds=["row_s7"], mixed_plans=None))
    assert calls.count("measure_errors") == 1  # of the equalization
    assert choice.prices.errors == {}
    layers = 1
    assert len(choice.points) == {"samp": 1 + 2 * layers, "exhaustive": 3**layers}[method]


def test_every_file_reads_back_with_the_class_that_wrote_it(make_config, tmp_path):
    shapes = [{"length": 6, "max_ms": 1e6}, {"batch_size": 4, "length": 8, "max_ms": 1e6}]
    config = make_config(goal={"max_accuracy_drop": 1.0, "buckets": shapes})
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
    assert report.buckets.keys() == chosen.buckets.keys() == {"1x6", "4x8"}
    assert report.buckets["1x6"].cpu_ms < report.buckets["4x8"].cpu_ms
    probe = read(Probe, PROBE_FILE)
    assert len(set(probe.texts)) == len(prepared.probe)
    assert set(probe.texts) <= set(prepared.data.test.texts)
    assert report.plan.host == this_host()
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
    whole = next(point for point in choice.points if point.name == "float").figures
    assert all(point.figures.paired.reference == whole.paired.accuracy for point in cut)
    assert all(point.figures.divergence.kl > 10 * whole.divergence.kl for point in cut)
    (texts,) = prepared.inputs.cut[5].test.parts
    assert max(batch["input_ids"].shape[1] for batch in texts.batches) == 5
    same = (point for point in cut if point.plan == choice.point.plan)
    chosen = next(point for point in same if point.length == 5)
    inputs = prepared.inputs.calibrated(worker.calibrate(prepared.inputs))
    measured = worker.measure_artifact(
        inputs,
        worker.float_outputs(inputs),
        (choice.folder / "model.onnx").read_bytes(),
        choice.point.plan,
        chosen.length,
    )
    expected = chosen.figures.divergence.kl
    assert measured.validation.divergence.kl == pytest.approx(expected, rel=1e-3)


def test_an_int8_word_table_is_part_of_every_plan_with_integers(make_config):
    config = make_config(tables="int8", kinds=["row_s7"], mixed_plans=0)
    _, choice, _ = search(config)
    tables = {point.plan.tables for point in choice.points if point.plan.integer}
    assert tables == {"int8"}
    assert next(point for point in choice.points if point.name == "float").plan.tables == "float"
    assert PlanFile.read(choice.folder).tables == "int8"
    values = onnx.load(choice.folder / "model.onnx").graph.initializer
    names = {value.name for value in values}
    assert "embedding.word.quantized" in names
    assert "embedding.word.weight" not in names


def test_storage_of_the_word_table_is_a_choice_of_the_search(make_config):
    """Without a bound of size the best plans are measured with both, and the goal chooses."""
    _, choice, _ = search(make_config(tables="auto", kinds=["row_s7"], mixed_plans=0))
    points = {point.name: point for point in choice.points}
    pairs = [(points[name.removesuffix("+table")], points[name]) for name in points
             if name.endswith("+table")]  # fmt: skip
    assert len(pairs) == 2
    for plain, small in pairs:
        assert (plain.plan.tables, small.plan.tables) == ("float", "int8")
        assert plain.plan.kinds == small.plan.kinds
        assert small.figures.size < plain.figures.size


@pytest.mark.parametrize(("tables", "fits"), [("float", False), ("auto", True), ("int8", True)])
def test_a_bound_of_size_may_need_an_int8_word_table(make_config, tables, fits):
    """The bound lies between the smallest files with either table: a mixed plan is found too."""
    source = read_subject(make_config()).source
    units = source.emit().units
    full = fully_quant(units, "row_s7")
    sizes = [len(source.emit(replace(full, tables=t)).to_bytes()) for t in ("int8", "float")]
    assert sizes[0] < sizes[1]
    goal = {"max_accuracy_drop": 1.0, "max_bytes": sum(sizes) // 2}
    config = make_config(tables=tables, goal=goal, kinds=["row_s7"], mixed_plans=3)
    if not fits:
        with pytest.raises(NoPlanError, match="max_bytes"):
            search(config)
        return
    _, choice, _ = search(config)
    assert choice.point.plan.tables == "int8"
    assert choice.bytes <= goal["max_bytes"]
    assert choice.prices.errors.keys() == {f"{unit.name}@row_s7" for unit in units}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tables": "int8"}, "tables: pictures/v0001 reads no tokens"),
        ({"lengths": [4], "max_length": 8}, "max_length, lengths: pictures/v0001 reads no tokens"),
        ({"latency": {"length": 8}}, "latency.length: pictures/v0001 reads no tokens"),
        ({"goal": {"buckets": [{"length": 8, "max_ms": 1}]}}, "goal.buckets: pictures/v0001 reads"),
    ],
)
def test_a_package_without_tokens_has_no_settings_about_them(tmp_path, settings, message):
    case = next(each for each in CASES if each.name == "classification, picture")
    zoo = Zoo(tmp_path / "zoo")
    commit(zoo, case, task_of(case, load(case, data_of(case, tmp_path))), "pictures")
    job = {"run": {"name": "q", "zoo": str(zoo.root)}, "package": "pictures", **settings}
    with pytest.raises(InputError, match=message):
        prepare(QuantizeConfig.model_validate(job))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": {"length": 999}}, "latency.length: 999 tokens, but inputs of the job"),
        (
            {"goal": {"buckets": [{"length": 99, "max_ms": 1}]}},
            "buckets.1x99: 99 tokens, but",
        ),
        ({"front_of": "tiny"}, "front_of: tiny/v0001 is not quantized"),
        ({"method": "exhaustive", "kinds": None}, "exhaustive has 7 .. 1 plans; at most 3"),
    ],
)
def test_settings_that_cannot_act_are_refused_before_the_data_are_read(
    make_config, monkeypatch, settings, message
):
    monkeypatch.setattr(exhaustive, "MOST_PLANS", 3)
    job = make_config(mixed_plans=None, **settings)
    with pytest.raises(InputError, match=message):
        read_subject(job)


def test_kinds_that_this_cpu_would_saturate_are_refused(make_config, monkeypatch):
    plain = Host(architecture="x86_64", cpu="old", isa=("avx2",), runtime="none")
    monkeypatch.setattr(checks, "this_host", lambda: plain)
    with pytest.raises(InputError, match="kinds: row_s8 would saturate on this CPU"):
        read_subject(make_config(kinds=["row_s8", "row_u8"]))


@pytest.mark.parametrize("lengths", [[8, 16], [64]])
def test_a_length_that_is_not_shorter_is_refused(make_config, lengths):
    with pytest.raises(InputError, match="not shorter than the limit"):
        prepare(make_config(lengths=lengths, max_length=16))


def test_every_bound_of_the_written_file_is_named(make_config):
    config = make_config()
    _, choice, _ = search(config)
    goal = {"max_accuracy_drop": -1.0, "max_latency_ms": 1e-9, "max_bytes": 1}
    quality, time, size = file_misses(choice, config.goal.model_copy(update=goal))
    assert quality.in_words().startswith("max_accuracy_drop is ")
    assert "on validation rows" in quality.in_words()
    assert (time.limit, size.limit) == ("max_latency_ms", "max_bytes")


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
