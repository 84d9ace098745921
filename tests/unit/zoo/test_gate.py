"""The promotion gate: nothing unknown passes."""

import pytest

from orchestrator.config import collect_problems
from orchestrator.zoo.gate import Promotion, is_within, judge, rows_needed
from orchestrator.zoo.suite import Difference, Exam, Figure, Suite, TaskSpec


def exam(head, *, bound=None, drop=0.0, status="measured", rows=300, metric="accuracy", **more):
    differences = {}
    if bound is not None:
        differences = {
            metric: Difference(
                parent=0.8,
                drop=drop,
                low=-0.1,
                high=0.1,
                bound=bound,
                lost=3,
                gained=1,
                p_value=0.6,
            )
        }
    return Exam(
        task=TaskSpec(kind="classification", head=head, labels=("a", "b")),
        status=status,
        reason="its rows are gone" if status == "unverified" else None,
        rows=rows,
        primary="accuracy",
        metrics={"accuracy": Figure(value=0.8, low=0.7, high=0.9)} if status == "measured" else {},
        parent="base/v0001",
        differences=differences,
        **more,
    )


def suite(*exams):
    return Suite(exams={each.task.head: each for each in exams})


PARENT = suite(exam("spam"))


def test_a_kept_promise_passes():
    assert judge(PARENT, suite(exam("spam", bound=0.01)), Promotion()).accepted


def test_a_fallen_promise_is_refused_with_figures():
    verdict = judge(PARENT, suite(exam("spam", bound=0.06, drop=0.04)), Promotion())
    assert not verdict.accepted
    (reason,) = verdict.reasons
    assert "spam accuracy: fell by 0.0400 (95 % bound 0.0600, 3 rows lost, 1 gained" in reason
    assert "0.02 is allowed" in reason
    assert "too few" not in reason


def test_too_few_rows_say_how_many_would_do():
    verdict = judge(PARENT, suite(exam("spam", bound=0.03, rows=100)), Promotion())
    assert (
        "100 rows are too few to tell; 149 rows with none lost would be enough"
        in (verdict.reasons[0])
    )
    assert rows_needed(0.02) == 149


@pytest.mark.parametrize(
    "child",
    [
        suite(),
        suite(exam("spam", status="unverified")),
        suite(exam("spam")),
        suite(exam("spam", bound=float("nan"))),
        suite(exam("spam", bound=0.0, metric="macro_f1")),
    ],
    ids=["gone", "unverified", "not compared", "no number", "another metric"],
)
def test_what_is_unknown_is_refused(child):
    assert not judge(PARENT, child, Promotion()).accepted


def test_a_task_may_stay_unverified_by_name_only():
    child = suite(exam("spam", status="unverified"))
    allowed = judge(PARENT, child, Promotion(allow_unverified=("spam",)))
    assert allowed.accepted
    assert "allowed by name" in allowed.notes[0]
    fallen = suite(exam("spam", bound=0.06, drop=0.05))
    assert not judge(PARENT, fallen, Promotion(allow_unverified=("spam",))).accepted


def test_limits_per_task_and_metric():
    child = suite(exam("spam", bound=0.01, metric="recall.spam"))
    limits = {"default": 0.5, "spam": {"recall.spam": 0.005}}
    assert not judge(PARENT, child, Promotion(max_drop=limits)).accepted
    limits["spam"] = {"recall.spam": 0.02}
    assert judge(PARENT, child, Promotion(max_drop=limits)).accepted


def test_a_limit_that_watches_nothing_is_refused():
    promotion = Promotion(max_drop={"default": 0.02, "spma": 0.1})
    verdict = judge(PARENT, suite(exam("spam", bound=0.0)), promotion)
    assert verdict.reasons == (
        "max_drop.spma: there is no such task. Did you mean 'spam'? Tasks: spam.",
    )


def test_without_any_limit_nothing_passes():
    verdict = judge(PARENT, suite(exam("spam", bound=0.0)), Promotion(max_drop={}))
    assert "no limit is given" in verdict.reasons[0]


def test_a_required_task_must_be_measured():
    promotion = Promotion(require=("topics",))
    child = suite(exam("spam", bound=0.0))
    assert not judge(PARENT, child, promotion).accepted
    assert judge(PARENT, suite(exam("spam", bound=0.0), exam("topics")), promotion).accepted


def test_the_mean_is_a_choice_that_is_stated():
    child = suite(exam("spam", bound=0.06, drop=0.01))
    verdict = judge(PARENT, child, Promotion(statistic="mean"))
    assert verdict.accepted
    assert verdict.notes == ("judged by the mean drop, not by its bound",)


@pytest.mark.parametrize("rows", [100, 150, 1000, 10**6, 10**12])
@pytest.mark.parametrize("limit", [0.02, 0.0, 0.1])
def test_a_drop_of_exactly_the_limit_passes_and_one_row_more_fails(rows, limit):
    lost = round(limit * rows)
    mean = Promotion(max_drop={"default": limit}, statistic="mean")
    for right in {round(share * rows) for share in (0.82, 0.84, 0.745, 0.93, 1.0)}:
        parent = right / rows
        for more in (0, 1):
            drop = parent - (right - lost - more) / rows
            assert is_within(drop, limit, parent) == (more == 0)
            child = suite(exam("spam", bound=0.2, drop=drop))
            assert judge(PARENT, child, mean).accepted == (more == 0)
            assert not judge(PARENT, child, Promotion(max_drop={"default": limit})).accepted
    assert not is_within(float("nan"), limit, 0.84)


def test_required_and_allowed_contradict():
    promotion = Promotion(require=("spam",), allow_unverified=("spam",))
    assert [problem.path for problem in collect_problems(promotion)] == ["allow_unverified"]
