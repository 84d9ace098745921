"""Sections of a selection: heat map, bracket with intervals, ranking with ties, cost bars."""

import re

import pytest

from orchestrator.report.bracket import bracket_blocks
from orchestrator.report.heat_map import SHADES, HeatMap, heat_map
from orchestrator.report.page import Note, Page, Section, Table
from orchestrator.report.selection import (
    cost_comparison,
    performance_matrix,
    ranking_table,
    selection,
    selection_remarks,
)
from orchestrator.selection.costs.comparison import compare_costs
from orchestrator.selection.costs.results import Ledger
from orchestrator.selection.salvage.results import Salvage
from tests.support import results

NAMES = ("one/v0001", "two/v0001")


def blocks_of(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def table_of(blocks, first_column):
    tables = [block for block in blocks if isinstance(block, Table)]
    return next(table for table in tables if table.columns[0] == first_column)


def html_of(*blocks):
    return Page("t", "s", sections=[Section("x", "y", blocks)]).html()


def priced_report(**changes):
    report = results.selection_report()
    row = {"phase": "rung", "model": "one/v0001", "rung": 1, "epochs": 1, "steps": 10}
    rows = [
        {"phase": "proxies", "model": "one/v0001", "seconds": 0.5},
        {"phase": "proxies", "model": "two/v0001", "seconds": 1.5},
        {**row, "seconds": 2.0, "startup_s": 1.0, "money": 2.5e-6},
        {"phase": "idle", "seconds": 1.0},
    ]
    fields = {"wall_s": 3.0, "slots": 2.0, "money": 6e-6, "currency": "EUR", "rows": rows}
    ledger = Ledger.model_validate({**report.ledger.totals(), **fields, **changes})
    return report.model_copy(update={"ledger": ledger, "comparison": compare_costs(ledger)})


def test_the_heat_map_has_every_score_in_the_order_of_the_tree():
    (found,) = performance_matrix(results.selection_report()).blocks
    assert found.columns == ("news", "mail")
    assert {row.name: [cell.value for cell in row.cells] for row in found.rows} == {
        "one/v0001": [0.7, 0.8], "two/v0001": [0.6, None],
    }  # fmt: skip
    assert found.tree.startswith("M")
    assert found.depth == 0.3
    page = html_of(found)
    for text in ("one/v0001", "two/v0001", "news", "mail", "0.700", "0.800", "0.600"):
        assert text in page
    assert 'title="mail –"' in page
    assert "nan" not in page.split("<body>")[1]


def test_models_that_are_alike_are_neighbors():
    scores = {
        f"m{place}": {"a": value} for place, value in enumerate((0.9, 0.1, 0.89, 0.11, 0.88, 0.12))
    }
    linkage = [[0, 2, 0.1, 2], [1, 3, 0.1, 2], [6, 4, 0.2, 3], [7, 5, 0.2, 3], [8, 9, 0.8, 6]]
    order = [row.name for row in heat_map(scores, linkage).rows]
    assert {frozenset(order[:3]), frozenset(order[3:])} == {
        frozenset({"m0", "m2", "m4"}), frozenset({"m1", "m3", "m5"}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"linkage": None}, "No tree: the selection did not compare its candidates."),
        (
            {
                "linkage": {"models": [NAMES[0]], "matrix": []},
                "matrix": {NAMES[0]: {"news": 0.7}},
            },
            "No tree: only one candidate has history. Left out: 1 without history.",
        ),
    ],
)
def test_without_a_tree_a_sentence_says_why(changes, sentence):
    section = performance_matrix(results.selection_report(**changes))
    (found,) = section.blocks
    assert found.tree == ""
    assert sentence in section.lead
    assert "0.700" in html_of(found)
    assert "<svg" not in html_of(found)


def test_two_hundred_models_are_readable_and_may_be_filtered():
    models = [f"team/model-{place}/v0001" for place in range(200)]
    sets = [f"set-{place}" for place in range(50)]
    scores = {
        m: {s: ((a * 7 + b * 3) % 100) / 100 for b, s in enumerate(sets)}
        for a, m in enumerate(models)
    }
    scores[models[7]][sets[3]] = None
    found = heat_map(scores, groups={"recalled": models[:9], "everyone": models, "none": []})
    assert [(choice.title, choice.rows) for choice in found.choices] == [
        ("all models", 200), ("recalled", 9),
    ]  # fmt: skip
    assert found.width * len(sets) <= 600
    assert not any(cell.text for row in found.rows for cell in row.cells)
    shades = {cell.shade for row in found.rows for cell in row.cells}
    assert shades == {"gap", *(f"c{place}" for place in range(SHADES))}
    page = html_of(found)
    assert page.count("<tr") == 201
    assert page.count('<tr class="in-0">') == 9
    assert ".show-0:checked~.scroll tbody tr:not(.in-0){display:none}" in page
    assert 'title="set-49 0.47"' in page
    assert len(page) < 700_000


def test_selection_ranks_with_reasons_and_marks_the_winner():
    report = results.selection_report()
    section = selection(report.model_copy(update={"comparison": compare_costs(report.ledger)}))
    assert section.title == "Selection for topics"
    assert "the winner 0.875" in section.lead
    ranking = table_of(section.blocks, "place")
    assert ranking.columns == (
        "place", "model", "outcome", "epochs", "validation", "recall", "why",
    )  # fmt: skip
    assert ranking.highlight == 0
    assert ranking.rows[0] == (1, "one/v0001", "winner", 2, 0.9, 0.5, "best of the last rung")
    assert dict(table_of(section.blocks, "cost").rows)["share of brute force"] == 0.75
    assert table_of(section.blocks, "method").columns == (
        "method", "epochs", "share of brute force",
    )  # fmt: skip
    assert "epochs are compared, not seconds" in blocks_of(section, Note)[1].text


def test_the_ranking_and_the_remarks_name_ties_salvage_and_warnings():
    trial = {"model": "two/v0001", "share": 0.25, "validation": 0.875, "taken": True}
    salvage = Salvage.model_validate({"before": 0.75, "after": 0.875, "trials": [trial]})
    finalist = {"model": "one/v0001", "validation_before": 0.9, "validation": 0.875}
    objective = {"after": "int8", "p95_ms": 3, "max_accuracy_drop": None}
    objective["finalists"] = [{**finalist, "bytes": 500_000, "p95_ms": 1.25}]
    report = results.selection_report(
        objective=objective, tied_with_winner=("two/v0001",), salvage=salvage,
        warnings=("the matrix is small",),
        ended="budget.epochs of 3 before rung 2",
    )  # fmt: skip
    assert [row[2] for row in ranking_table(report).rows] == [
        "winner, tied with 1", "dropped, tied with the winner",
    ]  # fmt: skip
    assert table_of(selection_remarks(report), "remark").rows == (
        ("tied with the winner", "two/v0001: validation rows do not tell them apart"),
        (
            "score after int8",
            "validation 0.9000 to 0.8750 after int8, p95 1.25 ms of 3 allowed, 0.50 MB",
        ),
        ("salvage", "two/v0001 (25%) merged into one/v0001: validation 0.7500 to 0.8750"),
        ("ended early", "budget.epochs of 3 before rung 2"),
        ("warning", "the matrix is small"),
    )


def test_the_bracket_shows_predictions_with_their_intervals():
    rungs = [
        {"rung": 1, "trained": NAMES, "kept": NAMES[:1], "halfwidth": 0.125},
        {"rung": 2, "trained": NAMES[:1], "kept": NAMES[:1], "halfwidth": None},
    ]
    report = results.selection_report(rungs=rungs)
    picture, note, bracket = bracket_blocks(report)
    assert bracket.columns == ("model", "rung 1", "rung 2")
    assert bracket.rows == (
        ("one/v0001", "0.600 → 0.650\u00a0±\u00a00.125", "0.900 → 0.950"),
        ("two/v0001", "0.500 → 0.550\u00a0±\u00a00.125", ""),
    )
    assert "one/v0001" in picture.svg
    assert "LineCollection" in picture.svg
    assert "90 % interval" in note.text


@pytest.mark.parametrize(
    ("bracket", "sentence"),
    [
        ([], "No rung was completed."),
        ([{**results.cell("one/v0001", 1, 0.6, kept=True), "predicted": None}], "No prediction"),
        ([results.cell("one/v0001", 1, 0.6, kept=True)], "Predictions have no interval"),
    ],
)
def test_what_the_bracket_lacks_is_said(bracket, sentence):
    report = results.selection_report(bracket=bracket, rungs=[])
    (note,) = (block for block in bracket_blocks(report) if isinstance(block, Note))
    assert note.text.startswith(sentence)


def test_a_bracket_of_many_models_names_the_best_only():
    models = [f"m{place:02d}" for place in range(40)]
    report = results.selection_report(
        winner=models[0],
        ranking=[results.ranked(n, m, "dropped", "x", (0.5,)) for n, m in enumerate(models, 1)],
        bracket=[results.cell(m, 1, 0.9 - n / 100, kept=n == 0) for n, m in enumerate(models)],
    )
    picture, _, table = bracket_blocks(report)
    svg = picture.svg
    assert set(re.findall(r">\s*(m\d\d)\s*<", svg)) == set(models[:8])
    assert len(table.rows) == 40
    assert "<div class=long>" in html_of(table)


def test_costs_stand_beside_those_of_other_methods_in_seconds_and_money():
    picture, note, table = cost_comparison(priced_report())
    assert "The others were not run" in note.text
    assert table.columns == (
        "method", "epochs", "share of brute force", "seconds of work", "start-up and idle", "EUR",
    )  # fmt: skip
    # one: 2 s an epoch and .5 s a pass, so two with 1.5 s a pass: 6 s; 4 epochs of 4 s on average
    assert table.rows[0] == ("this selection", 3.0, "75%", 4.0, 2.0, 6e-6)
    assert table.rows[1][:5] == ("brute force", 4.0, "100%", 16.0, None)
    assert table.rows[1][5] == pytest.approx(16e-6)
    assert [row[0] for row in table.rows[2:]] == ["successive halving", "ASHA", "HyperBand"]
    assert "EUR" in picture.svg
    assert "seconds of one slot" in picture.svg


def test_a_report_of_an_earlier_release_says_that_it_compares_nothing():
    (note,) = cost_comparison(results.selection_report())
    assert "earlier release" in note.text


def test_without_prices_seconds_alone_are_compared():
    *_, table = cost_comparison(priced_report(money=None, currency=""))
    assert table.columns[-1] == "start-up and idle"


def test_the_ledger_is_a_table_with_money_where_there_are_prices():
    blocks = selection(priced_report()).blocks
    table = table_of(blocks, "phase")
    assert dict(table_of(blocks, "cost").rows)["EUR"] == 6e-6
    assert table.columns[-1] == "EUR"
    assert table.rows[2] == ("rung", "one/v0001", 1, 1, 10, 2.0, 1.0, 1.0, 2.5e-6)


def test_a_page_has_no_scripts_and_its_choices_have_names_of_their_own():
    scores = {f"m{n}": {"a": n / 10} for n in range(4)}
    block = heat_map(scores, groups={"recalled": ["m1"]})
    assert isinstance(block, HeatMap)
    sections = [Section(name, "y", (block,)) for name in ("first", "second")]
    page = Page("t", "s", sections=sections).html()
    assert "<script" not in page
    assert set(re.findall(r'<input type=radio name="(\w+)"', page)) == {"heat1", "heat2"}
