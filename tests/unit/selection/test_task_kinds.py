"""Every kind of task: planned, scored by proxies, trained and published, without Ray."""

import numpy as np
import pytest

from orchestrator.errors import ConfigError, InputError
from orchestrator.selection.benchmark_runner import complete_matrix, plan_benchmark
from orchestrator.selection.halving import planned_bracket
from orchestrator.selection.outcome import publish_finalists, selection_report
from orchestrator.selection.planning import describe_selection, plan_selection
from orchestrator.selection.recall import recall_candidates
from orchestrator.selection.results import REPORT_NAME, JournalRow
from orchestrator.selection.scores.features import score_package
from orchestrator.selection.screening import Screening
from orchestrator.selection.select_runner import _payload
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.selection.trials.fine_tuning import FineTuneTrial
from orchestrator.selection.trials.journal import Journal
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.tasks.base import task_class
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite
from tests.support.candidates import FINE_TUNE, benchmark_job, select_job
from tests.support.every_task import CASES, Case, commit, data_of

REGRESSION = Case("regression", "regression")
LONG = ("classification, text", "classification, pair", "classification, image")
LONG += ("classification, audio",)
"""Also trained by other tests, or with many rows."""
SELECTABLE = [
    pytest.param(case, marks=[pytest.mark.slow] * (case.name in LONG), id=case.name)
    for case in CASES
    if not task_class(case.kind).writes_text
]
METRICS = {
    "classification": "accuracy",
    "tags": "span_f1",
    "multilabel": "micro_f1",
    "regression": "spearman",
    "similarity": "spearman",
    "question_answering": "f1",
    "multiple_choice": "accuracy",
}
CLASSES, NUMBERS = {"h_score", "knn", "logme"}, {"knn", "logme"}
PROXIES = {
    "classification": CLASSES,
    "tags": CLASSES,
    "multiple_choice": CLASSES,
    "question_answering": set(),
}
FAST = {**FINE_TUNE, "epochs": 2, "max_length": 24}


def make_zoo(place, case):
    """A zoo with two packages that read the rows of a case."""
    for seed, name in enumerate(("one", "two")):
        commit(Zoo(place / "zoo"), case, None, name, seed)
    return place


def job_of(place, case, **changes):
    fields = {"candidates": ["all:finetuned"], "matrix": None, "fine_tune": FAST}
    fields |= {"recall": {"k": 1}, "suite": {"protect": False}, "target": data_of(case, place)}
    return select_job(place, "run", **(fields | changes))


def select(config):
    """One selection through the code of the workers, one trial at a time; its winner's package."""
    with RunFolder.open(config, "select") as folder:
        plan = plan_selection(config, folder)
        screening = Screening(config, plan, folder)
        scores = {m: score_package(screening.trial(f"proxy {m}").payload) for m in plan.to_score}
        given = {"mode": "default", "predictor": None, "pool": len(plan.packages)}
        recalled = recall_candidates(plan.recall, scores, **given)
        journal = Journal(folder.path / "trials.jsonl")
        bracket = planned_bracket(plan, tuple(plan.packages))
        trials = {
            model: FineTuneTrial(_payload(config, plan, folder.path, model, start=0))
            for model in plan.packages
        }
        while not bracket.finished:
            for model in bracket.waiting():
                row = trials[model].step()
                assert not row.error
                journal.append(row.journal_row())
                bracket.record(model, row.rung, row.decides)
        report = selection_report(plan, recalled, scores, bracket, journal, package=config.package)
        atomic_write_json(folder.path / REPORT_NAME, report.model_dump())
        return plan, scores, journal, report, publish_finalists(config, plan, report, folder)


@pytest.mark.parametrize("case", SELECTABLE)
def test_a_kind_is_selected_by_its_metric(tmp_path, case):
    kind, metric = case.kind, METRICS[case.kind]
    # pairs with a score may be of two kinds: the job says which
    config = job_of(make_zoo(tmp_path, case), case, task=kind if kind == "similarity" else None)
    assert f"task: {kind}" in describe_selection(config)
    plan, scores, journal, report, package = select(config)
    assert (plan.asked.kind, plan.asked.metric) == (kind, metric)
    for score in scores.values():
        assert set(score.values) == PROXIES.get(kind, NUMBERS)
    assert set(scores) == (set() if kind == "question_answering" else set(plan.packages))
    assert any("no proxy applies" in text for text in report.warnings) == (not scores)
    assert report.target.metric == metric
    assert report.figures()[f"test_{metric}"] == report.test_accuracy
    (exam,) = read_suite(package).exams.values()
    assert exam.task.kind == package.manifest.task.kind == kind
    assert exam.metrics[metric].value == pytest.approx(report.test_accuracy, abs=1e-6)
    assert report.validation_accuracy == max(r.validation for r in journal.rows if r.rung == 2)


def test_an_error_is_minimized_and_reported_in_its_unit(tmp_path):
    config = job_of(make_zoo(tmp_path, REGRESSION), REGRESSION, metric="mae")
    plan, _, journal, report, package = select(config)
    first = {row.trial: row.validation for row in journal.rows if row.rung == 1}
    assert report.winner == min(first, key=first.get)
    assert plan.asked.worst == pytest.approx(0.5, abs=0.1)  # half of the labels are 1 away
    dropped = next(row for row in report.ranking if row.status == "dropped")
    shown = f"({first[dropped.model]:.3f}; {report.winner}: {first[report.winner]:.3f}), 1 kept"
    assert dropped.reason == f"place 2 of 2 by validation score after epoch 1 {shown}"
    assert dropped.validation == pytest.approx((first[dropped.model],))
    assert report.target.higher_is_better is False
    assert package.manifest.metrics["test_mae"] == report.test_accuracy > 0


def test_goodness_is_larger_for_a_smaller_error():
    spec = {"kind": "classification", "head": "a", "labels": ("x", "y")}
    rate = TargetTask(spec=spec, metric="ece", higher_is_better=False)
    assert rate.goodness(0.25) == 0.75
    assert rate.score_of(0.75) == 0.25
    error = TargetTask(spec=spec, metric="mae", higher_is_better=False, scale="range", worst=4.0)
    assert (error.goodness(4.0), error.goodness(0.0), error.goodness(6.0)) == (0.0, 1.0, -0.5)
    assert error.score_of(error.goodness(3.0)) == pytest.approx(3.0)
    assert error.width_of(0.5) == 2.0
    np.testing.assert_allclose(error.facts.normalized(np.array([1.0])), error.goodness(1.0))


def test_a_matrix_keeps_metric_and_direction(tmp_path):
    make_zoo(tmp_path, REGRESSION)
    config = benchmark_job(
        tmp_path,
        packages=["all:finetuned"],
        datasets=[data_of(REGRESSION, tmp_path)],
        metric="mae",
        fine_tune=FAST,
        matrix=str(tmp_path / "m.parquet"),
    )
    plan = plan_benchmark(config)
    journal = Journal(tmp_path / "t.jsonl")
    for cell, error in zip(plan.cells, (3.0, 1.0), strict=True):
        for rung in (1, 2):
            test = error if rung == 2 else None
            journal.append(JournalRow(trial=cell.trial, rung=rung, validation=error, test=test))
    matrix = complete_matrix(plan, journal, 2)
    facts = matrix.datasets["regression"]
    assert (facts.metric, facts.higher_is_better, facts.scale) == ("mae", False, "range")
    assert matrix.final()["regression"].tolist() == [3.0, 1.0]
    better = matrix.normalized()["regression"]
    assert better.iloc[1] > better.iloc[0]
    assert matrix.history().curves[1, 0, 0] > matrix.history().curves[0, 0, 0]


@pytest.mark.parametrize("kind", ["generation", "transcription"])
def test_kinds_that_write_text_are_refused_by_name(tmp_path, kind):
    with pytest.raises(ConfigError, match=f"tasks of kind {kind} cannot be selected for"):
        job_of(tmp_path, REGRESSION, task=kind)


def test_rows_of_a_kind_that_writes_text_are_refused_at_check(tmp_path):
    config = job_of(make_zoo(tmp_path, REGRESSION), Case("written", "generation"))
    with pytest.raises(InputError, match="tasks of kind generation cannot be selected for"):
        describe_selection(config)


def test_an_unknown_metric_is_refused(tmp_path):
    config = job_of(make_zoo(tmp_path, REGRESSION), REGRESSION, metric="maee")
    with pytest.raises(InputError, match=r"'maee' is not a metric of regression.*'mae'"):
        plan_selection(config)


def test_paper_mode_needs_classes(tmp_path):
    config = job_of(make_zoo(tmp_path, REGRESSION), REGRESSION)
    recall = config.recall.model_copy(update={"mode": "paper"})
    with pytest.raises(InputError, match="tasks of kind regression lack"):
        plan_selection(config.model_copy(update={"recall": recall}))
