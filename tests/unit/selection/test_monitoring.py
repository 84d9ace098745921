"""Readings of a selection while it runs."""

from orchestrator.selection.halving import Bracket
from orchestrator.selection.monitoring import GAUGES, PHASES, STATUSES, Monitor
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.results import JournalRow, ProxyScore

PROXY = ProxyScore(values={}, floors={}, seconds=2.0, startup_s=1.0)


def read(monitor):
    found = {}
    for name, labels, value in monitor.readings():
        assert set(labels) == set(GAUGES[name][1])
        assert labels["run"] == "pick"
        own = [text for label, text in labels.items() if label != "run"]
        found[name, *own] = value
    return found


def bracket_and_rows(*, values):
    bracket = Bracket(("a/v0001", "b/v0001", "c/v0001"), 2, Halving())
    rows = []
    for model, rung, value in values:
        rows.append(
            JournalRow(
                trial=model, rung=rung, validation=value, steps=5, seconds=3.0, startup_s=1.0
            )
        )
        bracket.record(model, rung, value)
    return bracket, rows


def test_before_the_first_rung_candidates_are_screened():
    monitor = Monitor("pick", ("a/v0001", "b/v0001"), {"x/v0001": "no weights"}, {"a/v0001": PROXY})
    found = read(monitor)
    assert found["orch_select_candidates", "screening"] == 2
    assert found["orch_select_failed", "no weights"] == 1
    assert found["orch_select_seconds", "proxies"] == 3.0
    assert ("orch_select_rung",) not in found
    assert ("orch_select_budget_used",) not in found


def test_an_open_rung_counts_what_waits_and_what_is_trained():
    bracket, rows = bracket_and_rows(values=[("a/v0001", 1, 0.5), ("b/v0001", 1, 0.75)])
    bracket.fail("c/v0001", "its score in rung 1 is nan: training diverged")
    candidates = ("a/v0001", "b/v0001", "c/v0001", "d/v0001")
    found = read(Monitor("pick", candidates, {}, {}, {}, bracket, rows, 0.25))
    counts = {status: found["orch_select_candidates", status] for status in STATUSES}
    assert counts == {
        "screening": 0, "waiting": 1, "trained": 0, "dropped": 1, "not recalled": 1, "failed": 1,
        "finalist": 0,
    }  # fmt: skip
    assert found["orch_select_rung",] == 2
    assert found["orch_select_best_score",] == 0.75
    assert found["orch_select_budget_used",] == 0.25
    assert found["orch_select_epochs", "rung"] == 2
    assert found["orch_select_seconds", "rung"] == 8.0
    assert {labels[0] for name, *labels in found if name == "orch_select_epochs"} == set(PHASES)
    assert ("orch_select_failed", "its score in rung 1 is nan: training diverged") in found


def test_the_last_readings_name_the_finalist_and_the_phases():
    bracket, rows = bracket_and_rows(
        values=[
            ("a/v0001", 1, 0.5),
            ("b/v0001", 1, 0.75),
            ("c/v0001", 1, 0.25),
            ("b/v0001", 2, 0.8),
        ]
    )
    found = read(Monitor("pick", bracket.pool, bracket=bracket, rows=rows))
    counts = {status: found["orch_select_candidates", status] for status in STATUSES}
    assert {status: n for status, n in counts.items() if n} == {"dropped": 2, "finalist": 1}
    assert found["orch_select_rung",] == 2
    assert found["orch_select_epochs", "rung"] == 3
    assert found["orch_select_epochs", "completion"] == 1
