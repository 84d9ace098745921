"""Sections from typed results: what they show, and in which order."""

import re

import pytest

from orchestrator.report import figures, precision, sections
from orchestrator.report.page import Picture, Table
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import SUITE_FILE, Difference, Exam, Figure, Suite, TaskSpec
from tests.support import results
from tests.support.packages import LABELS, commit_tiny


def picture_and_tables(section):
    picture, *tables = section.blocks
    assert isinstance(picture, Picture)
    assert picture.svg.startswith("<svg")
    return re.sub(r"\s+", " ", picture.svg), tables


def test_pretraining_draws_each_model_and_the_entropy_to_beat():
    table = sections.evaluation_table(results.evaluation())
    section = sections.pretraining({"bert/v0001": results.history()}, 4.25, table)
    svg, (shown,) = picture_and_tables(section)
    assert "bert/v0001" in svg
    assert "unigram entropy 4.25" in svg
    assert shown.rows[:2] == (("data", "builtin:pydoc"), ("split", "validation"))
    assert dict(shown.rows)["perplexity"] == 12.2
    assert "schema_version" not in dict(shown.rows)


def test_pretraining_without_an_entropy_has_no_line_to_beat():
    section = sections.pretraining({"clip/v0001": results.history()}, None, Table((), ()))
    assert "unigram entropy" not in picture_and_tables(section)[0]


def test_training_progress_reports_what_the_loss_guard_did():
    section = sections.training(results.history(skipped=1.0), results.evaluation(rollbacks=3))
    _, (table,) = picture_and_tables(section)
    figures = dict(table.rows)
    assert figures["steps skipped (a loss or gradient was not finite)"] == 1
    assert figures["returns to a checkpoint to skip bad samples"] == 3
    assert figures["tokens/s (median)"] == 900
    assert figures["memory of a worker, MB (maximum)"] == 200
    assert figures["seconds in which checkpoints held up training"] == 0.5


def test_continual_learning_shows_the_matrix_and_the_figures():
    section = sections.continual(results.stream_evaluation())
    svg, (table,) = picture_and_tables(section)
    assert "after mail" in svg
    assert "0.850" in svg
    assert dict(table.rows)["backward transfer"] == -0.05
    assert "task-incremental" in section.lead


def test_quantization_labels_float_and_the_chosen_plan():
    svg, (table,) = picture_and_tables(precision.plans_section(results.pareto_report()))
    assert table.rows[table.highlight] == ("fully_quant.row_s7", 2, 0.8, 1.25)
    assert "> float<" in svg or ">float<" in svg
    assert "fully_quant.row_s7" in svg


def test_what_each_class_and_each_slice_lost_is_listed(tmp_path):
    shares = {"recall.error": 0.02, "f1.error": 0.01, "accuracy@german": 0.25, "accuracy": 0.1}
    differences = {
        name: Difference(
            parent=0.75, drop=drop, low=0.0, high=0.5, bound=0.5, lost=3, gained=1, p_value=0.5
        )
        for name, drop in shares.items()
    }
    exam = Exam(
        task=TaskSpec(kind="classification", head="topic", labels=LABELS),
        status="measured",
        primary="accuracy",
        metrics={"accuracy": Figure(value=0.65, low=0.5, high=0.8)},
        differences=differences,
    )
    suite = Suite(default="topic", exams={"topic": exam}).model_dump_json()
    package = commit_tiny(Zoo(tmp_path), files={SUITE_FILE: suite})
    classes, slices = precision.class_tables(package, "topic")
    assert classes.columns[:2] == ("class", "metric")
    assert [row[:2] for row in classes.rows] == [("error", "f1"), ("error", "recall")]
    assert classes.rows[1][2:] == (0.75, pytest.approx(0.73), 0.5)
    assert slices.rows == (("german", 0.75, 0.5, 0.5),)
    assert list(precision.class_tables(package, None)) == []


@pytest.mark.parametrize("failures", [0, 2])
def test_serving_counts_failed_requests(failures):
    section = sections.serving([1.0, 2.0, 9.0], failures, [("a text", "news (0.90)", "news")])
    svg, (table,) = picture_and_tables(section)
    assert section.lead == f"{3 + failures} requests over HTTP, {failures} failed."
    assert table.rows == (("a text", "news (0.90)", "news"),)
    assert "p99" in svg


def test_colors_of_scores_span_zero_to_one():
    svg = figures.accuracy_matrix([[0.80, 0.81]], ["news", "mail"]).svg
    assert "0.800" in svg
    assert not re.findall(r"fill: #ffffff[^>]*>([0-9.]+)<", svg), "close scores have the same ink"
    assert re.findall(r"fill: #ffffff[^>]*>([0-9.]+)<", dark([[0.1, 0.2]])) == ["0.100", "0.200"]


def dark(scores):
    return figures.accuracy_matrix(scores, ["news", "mail"]).svg
