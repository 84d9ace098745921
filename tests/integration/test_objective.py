"""Selection by the score after INT8, on a real Ray, with candidates that have planted outliers."""

import json

import pytest

from orchestrator.cli import job_main
from orchestrator.config import dump_yaml, validate_config
from orchestrator.data.sources.opening import load_task
from orchestrator.inference.predictor import Predictor
from orchestrator.quantization import runner as quantize
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.selection.objective.measuring import percentile_ms
from orchestrator.selection.results import SelectionReport
from orchestrator.selection.select_runner import run
from orchestrator.zoo import Zoo
from tests.support.outliers import RECURRENT, make_outlier_world, outlier_job

P95_MS = 60.0
OBJECTIVE = {
    "after": "int8",
    "p95_ms": P95_MS,
    "max_accuracy_drop": 0.05,
    "promotion": {"max_drop": {"default": 1.0}},  # 96 test rows prove no smaller bound
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(local_ray, tmp_path_factory):
    return make_outlier_world(tmp_path_factory.mktemp("outliers"), RECURRENT)


@pytest.fixture(scope="module")
def results(world):
    return run(outlier_job(world, "float")), run(outlier_job(world, "int8", objective=OBJECTIVE))


def test_outliers_change_the_choice_to_the_candidate_that_is_better_after_int8(world, results):
    before, after = results
    assert before.metrics["winner"] == "outliers/v0001"
    assert after.metrics["winner"] == "plain/v0001"
    config = validate_config(
        QuantizeConfig,
        {
            "run": {"name": "other", "dir": str(world / "runs"), "zoo": str(world / "zoo")},
            "package": before.package,
            "output": "other",
            "data": outlier_job(world, "x").target.model_dump(mode="json"),
            "promotion": {"max_drop": {"default": 1.0}},
        },
        "test",
    )
    other = quantize.run(config).metrics
    assert other["accuracy_float"] > after.metrics["test_accuracy"]
    assert after.metrics["test_accuracy"] > other["accuracy"] + 0.1


def test_what_is_published_keeps_the_limits_when_it_is_measured_again(world, results):
    package = Zoo(world / "zoo").get("int8")
    assert results[1].package == package.ref
    assert package.kind == "quantized"
    (parent,) = package.manifest.parents
    trained = Zoo(world / "zoo").get(parent.ref)
    assert trained.name == "int8-float"
    assert trained.kind == "finetuned"
    rows = load_task(outlier_job(world, "x").target).validation
    measured = [Predictor.open(each).measure(rows).primary.value for each in (trained, package)]
    report = SelectionReport.model_validate(package.read_json("evaluation/selection.json"))
    (found,) = report.objective.finalists
    assert [found.validation_before, found.validation] == pytest.approx(measured)
    assert measured[0] - measured[1] <= OBJECTIVE["max_accuracy_drop"]
    assert report.validation_accuracy == found.validation
    assert trained.manifest.metrics["validation_accuracy"] == found.validation_before
    predictor = Predictor.open(package)
    assert percentile_ms(predictor, predictor.default, rows, texts=96, calls=3) <= P95_MS
    assert package.read_json("evaluation/quantization.json")["source"] == trained.ref


def test_the_ledger_counts_checks_and_searches(world, results):
    report = SelectionReport.read(world / "runs" / "int8" / "selection.json")
    phases = [row.phase for row in report.ledger.rows]
    checks = [row for row in report.ledger.rows if row.phase == "int8 check"]
    assert len(checks) == phases.count("rung") + phases.count("completion")
    (search,) = [row for row in report.ledger.rows if row.phase == "compression"]
    assert min(row.seconds for row in [search, *checks]) > 0
    assert run(outlier_job(world, "int8", objective=OBJECTIVE)) == results[1]


def test_limits_that_nothing_keeps_end_with_the_nearest_miss_and_no_package(world, capfd):
    zoo = Zoo(world / "zoo")
    before = {package.ref for package in zoo.packages()}
    for name, limit in (("fast", {"p95_ms": 1e-6}), ("exact", {"max_accuracy_drop": 0.0})):
        job = outlier_job(
            world,
            name,
            candidates=["outliers"] if name == "exact" else ["all"],
            objective={"after": "int8", **limit},
        )
        (world / "job.yaml").write_text(dump_yaml(job))
        assert job_main("select", ["--config", str(world / "job.yaml")]) == 1
        line = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
        assert "The nearest is" in line["error"], line
        assert next(iter(limit)) in line["error"]
    assert {package.ref for package in zoo.packages()} == before
