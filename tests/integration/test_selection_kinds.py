"""Selection of task kinds other than texts of one class, on a real Ray Tune."""

import pytest

from orchestrator.selection import benchmark_runner
from orchestrator.selection.matrix.files import read_matrix
from orchestrator.selection.results import SelectionReport
from orchestrator.selection.select_runner import run
from orchestrator.selection.trials.journal import Journal
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite
from tests.support.candidates import FINE_TUNE, benchmark_job, select_job
from tests.support.every_task import Case, commit, data_of

pytestmark = pytest.mark.slow
FIELDS = {"fine_tune": {**FINE_TUNE, "max_length": 24}, "matrix": None, "recall": {"k": 2}}
FIELDS |= {"candidates": ["all:finetuned"]}


def make_zoo(place, case):
    for seed, name in enumerate(("one", "two", "three")):
        commit(Zoo(place / "zoo"), case, None, name, seed)


def test_tags_are_measured_selected_and_published(local_ray, tmp_path):
    case = Case("tags", "tags")
    make_zoo(tmp_path, case)
    data = data_of(case, tmp_path)
    matrix = str(tmp_path / "m.parquet")
    fields = {"packages": ["all:finetuned"], "fine_tune": FIELDS["fine_tune"], "matrix": matrix}
    benchmark_runner.run(benchmark_job(tmp_path, datasets=[data], **fields))
    measured = read_matrix(matrix)
    assert measured.datasets["tags"].metric == "span_f1"
    assert measured.missing() == []
    result = run(select_job(tmp_path, target=data, **FIELDS))
    report = SelectionReport.read(tmp_path / "runs" / "pick" / "selection.json")
    assert (report.target.kind, report.target.metric) == ("tags", "span_f1")
    assert {*report.proxies} == {"one/v0001", "two/v0001", "three/v0001"}
    assert result.metrics["test_span_f1"] == report.test_accuracy
    package = Zoo(tmp_path / "zoo").get(result.package)
    (exam,) = read_suite(package).exams.values()
    assert exam.metrics["span_f1"].value == pytest.approx(report.test_accuracy, abs=1e-6)
    # the same package trained the same way on the same rows: the column says what it reaches
    assert measured.final().loc[report.winner, "tags"] == pytest.approx(report.test_accuracy)


def test_image_files_are_selected_for(local_ray, tmp_path):
    case = Case("pictures", "classification", modality="image")
    make_zoo(tmp_path, case)
    result = run(select_job(tmp_path, target=data_of(case, tmp_path), **FIELDS))
    package = Zoo(tmp_path / "zoo").get(result.package)
    assert package.manifest.task.modality == "vision"
    assert result.metrics["test_accuracy"] >= result.metrics["majority_accuracy"]
    assert {*read_suite(package).exams} == {"pictures"}


def test_an_error_is_minimized(local_ray, tmp_path):
    case = Case("numbers", "regression")
    make_zoo(tmp_path, case)
    result = run(select_job(tmp_path, target=data_of(case, tmp_path), metric="mae", **FIELDS))
    report = SelectionReport.read(tmp_path / "runs" / "pick" / "selection.json")
    first = {cell.model: cell.score for cell in report.bracket if cell.rung == 1}
    kept = [cell.model for cell in report.bracket if cell.rung == 1 and cell.kept]
    assert kept == [min(first, key=first.get)]
    assert result.metrics["test_mae"] < 1


def test_each_candidate_tries_its_learning_rates(local_ray, tmp_path):
    case = Case("words", "classification")
    make_zoo(tmp_path, case)
    fields = {**FIELDS, "fine_tune": {**FIELDS["fine_tune"], "learning_rate": None}}
    halving = {"learning_rates": [1e-6, 5e-3]}
    result = run(select_job(tmp_path, target=data_of(case, tmp_path), halving=halving, **fields))
    report = SelectionReport.read(tmp_path / "runs" / "pick" / "selection.json")
    assert report.finalists[0].learning_rate in (1e-6, 5e-3)
    trained = {cell.model for cell in report.bracket}
    assert report.learning_rates.keys() == trained
    assert all({*found} == {"1e-06", "0.005"} for found in report.learning_rates.values())
    rows = Journal(tmp_path / "runs" / "pick" / "trials.jsonl").rows
    tried = [row for row in rows if row.phase == "learning rate"]
    paid = [row for row in report.ledger.rows if row.phase == "learning rate"]
    assert len(paid) == len(tried) == 2 * len(trained)
    assert report.ledger.steps == sum(row.steps for row in rows)
    metrics = Zoo(tmp_path / "zoo").get(result.package).manifest.metrics
    assert metrics["learning_rate"] == report.finalists[0].learning_rate
