"""Sections from typed results: what they show, and in which order."""

import re

import pytest

from orchestrator.report import figures, sections
from orchestrator.report.page import Picture, Table
from orchestrator.selection.salvage.results import Salvage
from tests.support import results


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


def test_the_performance_matrix_shows_every_score_and_leaves_gaps():
    svg, tables = picture_and_tables(sections.performance_matrix(results.selection_report()))
    assert not tables
    for text in ("one/v0001", "two/v0001", "news", "mail", "0.700", "0.800", "0.600"):
        assert text in svg
    assert "nan" not in svg


def test_a_matrix_without_a_dendrogram_is_drawn_too():
    svg, _ = picture_and_tables(sections.performance_matrix(results.selection_report(linkage=None)))
    assert "0.700" in svg


def test_selection_ranks_with_reasons_and_marks_the_winner():
    section = sections.selection(results.selection_report())
    svg, (ranking, cost) = picture_and_tables(section)
    assert section.title == "Selection for topics"
    assert "the winner 0.875" in section.lead
    assert ranking.columns == ("place", "model", "epochs", "why")
    assert ranking.rows[ranking.highlight] == (1, "one/v0001", 2, "best of the last rung")
    assert dict(cost.rows)["share of brute force"] == 0.75
    assert svg.count("dropped") == 1


def test_the_ledger_is_a_table_with_money_where_there_are_prices():
    report = results.selection_report()
    row = {"phase": "rung", "model": "one/v0001", "rung": 1, "epochs": 1, "steps": 10}
    rows = [{**row, "seconds": 2.0, "startup_s": 1.0, "money": 2.5e-6}, {"phase": "idle"}]
    ledger = type(report.ledger).model_validate(
        {**report.ledger.totals(), "wall_s": 2.5, "money": 5e-6, "currency": "EUR", "rows": rows}
    )
    section = sections.selection(report.model_copy(update={"ledger": ledger}))
    *_, cost, table = picture_and_tables(section)[1]
    assert dict(cost.rows)["EUR"] == 5e-6
    assert table.columns[-1] == "EUR"
    assert table.rows[0] == ("rung", "one/v0001", 1, 1, 10, 2.0, 1.0, 1.0, 2.5e-6)


def test_selection_names_ties_salvage_and_warnings():
    trial = {"model": "two/v0001", "share": 0.25, "validation": 0.875, "taken": True}
    salvage = Salvage.model_validate({"before": 0.75, "after": 0.875, "trials": [trial]})
    report = results.selection_report(
        tied_with_winner=("two/v0001",), salvage=salvage, warnings=("the matrix is small",)
    )
    remarks = sections.selection(report).blocks[2]
    assert remarks.rows == (
        ("tied with the winner", "two/v0001: validation rows do not tell them apart"),
        ("salvage", "two/v0001 (25%) merged into one/v0001: validation 0.7500 to 0.8750"),
        ("warning", "the matrix is small"),
    )


def test_continual_learning_shows_the_matrix_and_the_figures():
    section = sections.continual(results.stream_evaluation())
    svg, (table,) = picture_and_tables(section)
    assert "after mail" in svg
    assert "0.850" in svg
    assert dict(table.rows)["backward transfer"] == -0.05
    assert "task-incremental" in section.lead


def test_quantization_labels_float_and_the_chosen_plan():
    svg, (table,) = picture_and_tables(sections.quantization(results.pareto_report()))
    assert table.rows[table.highlight] == ("fully_quant.row_s7", 2, 0.8, 1.25)
    assert "> float<" in svg or ">float<" in svg
    assert "fully_quant.row_s7" in svg


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
