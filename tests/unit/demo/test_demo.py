"""Narrator and summary of the demo, and the accuracy that it admits to have lost."""

import io
import json

import pytest
from pydantic import ValidationError

from orchestrator.continual.results import MATRIX_FILE
from orchestrator.demo.config import DemoConfig
from orchestrator.demo.heads import HeadScore, changes, suite_scores, verdict
from orchestrator.demo.lifecycle import Lifecycle
from orchestrator.demo.narrator import Narrator
from orchestrator.demo.runner import report
from orchestrator.demo.summary import DemoSummary, PointsLost
from orchestrator.demo.traffic import Traffic, _Answer, _examples
from orchestrator.quantization.results import PARETO_FILE
from orchestrator.report.pages import SELECTION_FILE
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import SUITE_FILE, Suite
from tests.support import results


def score(stage, package, head, value):
    figures = {"value": value, "low": value - 0.1, "high": value + 0.1, "rows": 50}
    figures |= {"drop": None, "bound": None}
    return {"stage": stage, "package": package, "head": head, "metric": "accuracy", **figures}


FALLS = [
    HeadScore.model_validate({**score(stage, "small/v0001", head, 0.7), "drop": drop})
    for stage, head, drop in [
        ("select", "topics", None),
        ("continual", "topics", 0.05),
        ("continual", "mail", None),
        ("quantize", "topics", 0.02),
        ("quantize", "mail", 0.0),
    ]
]
COST = dict(results.selection_report().ledger)
SUMMARY = {
    "pretrain": {
        "documents": 100,
        "tokens": 5000,
        "models": [
            {
                "package": "bert/v0001",
                "encoder": "transformer",
                "target": "mlm",
                "engine": "ZeRO-2, 2 workers",
                "steps": 8,
                "loss": 2.5,
                "unigram entropy": 4.25,
                "seconds": 2.0,
            }
        ],
    },
    "benchmark": {"matrix": [{"model": "bert/v0001", "news": 0.7}], "epochs": 2, "steps": 20},
    "select": {
        **COST,
        "ranking": [],
        "winner": "bert/v0001",
        "package": "classifier/v0001",
        "test_accuracy": 0.875,
        "majority_accuracy": 0.5,
    },
    "continual": {
        **dict(results.stream_figures()),
        "accuracy_matrix": [{"": "after news", "news": 0.9, "mail": None}],
        "package": "learned/v0001",
    },
    "quantize": {
        **results.quantize_metrics().model_dump(exclude={"plan"}),
        "plan": [{"unit": "a", "kind": "row_s7"}],
        "package": "small/v0001",
    },
    "heads": {
        "scores": [
            score("select", "selected/v0001", "topics", 0.8),
            score("continual", "learned/v0001", "topics", 0.7),
            score("continual", "learned/v0001", "mail", 0.9),
            score("quantize", "small/v0001", "topics", 0.78),
            score("quantize", "small/v0001", "mail", 0.91),
        ],
        "max_drop": 0.05,
        "verdicts": ["topics: 0.800 when learned, 0.780 served; kept within 0.05"],
    },
    "serve": {
        "requests": 3,
        "failures": 1,
        "p50_ms": 2.0,
        "p99_ms": 9.0,
        "accuracy": 0.5,
        "answers": [{"text": "a text", "answer": "news (0.90)", "label": "news"}],
    },
    "result": {
        "seconds": 12.5,
        "points_lost": dict(PointsLost.of(FALLS, [])),
    },
}


def test_the_narrator_numbers_chapters_and_aligns_tables():
    stream = io.StringIO()
    tell = Narrator(stream)
    tell.chapter("Pre-train")
    tell.say("a sentence")
    tell.chapter("Select")
    tell.table(("model", "loss"), [("one", 0.123456), ("another", None)])
    tell.table(("model",), [])
    lines = stream.getvalue().splitlines()
    assert lines[1].startswith("[1] Pre-train   (")
    assert lines[2] == "    a sentence"
    assert lines[4].startswith("[2] Select   (")
    assert lines[5:] == ["      model    loss", "      one      0.1235", "      another  –"]


def test_the_summary_reads_back_from_its_file():
    summary = DemoSummary.model_validate(SUMMARY)
    stored = json.loads(summary.model_dump_json(by_alias=True))
    assert stored == {"schema_version": 2, **json.loads(json.dumps(SUMMARY))}
    assert DemoSummary.model_validate(stored) == summary


def test_a_head_is_followed_from_the_stage_that_learned_it():
    found = changes(DemoSummary.model_validate(SUMMARY).heads.scores)
    assert [(each.head, each.learned, each.served) for each in found] == [
        ("topics", 0.8, 0.78),
        ("mail", 0.9, 0.91),
    ]
    assert verdict(found[0], 0.05).endswith("kept within 0.05")
    assert verdict(found[0], 0.01).endswith("not kept: it fell by more than 0.01")


def exam(head, value, **changes):
    fields = {
        "task": {"kind": "classification", "head": head, "labels": ["a", "b"]},
        "status": "measured",
        "rows": 50,
        "primary": "accuracy",
        "metrics": {"accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}},
    }
    return fields | changes


def test_scores_of_a_package_are_those_of_its_suite(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    fall = {"parent": 0.8, "drop": 0.1, "low": 0.0, "high": 0.2, "bound": 0.18}
    fall |= {"lost": 6, "gained": 1, "p_value": 0.125}
    unverified = {"status": "unverified", "reason": "no rows", "metrics": {}}
    exams = {
        "topics": exam("topics", 0.7, parent="first/v0001", differences={"accuracy": fall}),
        "mail": exam("mail", 0.9),
        "lost": exam("lost", 0.5, **unverified),
    }
    suite = Suite.model_validate({"exams": exams})
    package = results.commit(zoo, "learned", {SUITE_FILE: suite})
    topics, mail = suite_scores("continual", package)
    assert (topics.head, topics.value, topics.drop, topics.bound) == ("topics", 0.7, 0.1, 0.18)
    assert (mail.head, mail.rows, mail.drop, mail.metric) == ("mail", 50, None, "accuracy")
    assert list(suite_scores("pretrain", results.commit(zoo, "encoder", {}))) == []


def test_examples_are_the_surest_answers_with_the_right_labels():
    answers = [_Answer(1.0, "a", 0.5), _Answer(1.0, "a", 0.9), _Answer(1.0, "b", 0.7)]
    assert _examples(["one", "two  words", "three"], answers, ["b", "a", "b"]) == [
        ("two words", "a (0.90)", "a"),
        ("three", "b (0.70)", "b"),
    ]


def test_a_summary_without_a_figure_is_refused_by_its_name():
    broken = {**SUMMARY, "serve": {k: v for k, v in SUMMARY["serve"].items() if k != "failures"}}
    with pytest.raises(ValidationError, match=r"serve.failures"):
        DemoSummary.model_validate(broken)


def test_points_lost_add_up_and_name_what_was_not_measured():
    lost = PointsLost.of(FALLS, ["areas"])
    assert (lost.continual, lost.quantization, lost.total) == pytest.approx((5, 1, 6))
    assert lost.sentence() == (
        "accuracy lost after selection: 6.0 points (5.0 by learning further tasks, 1.0 by INT8); "
        "not measured: areas"
    )
    assert PointsLost.of([], []).total == 0


@pytest.fixture
def life(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    config = DemoConfig.model_validate({"run": {"name": "demo", "zoo": str(tmp_path / "zoo")}})
    found = Lifecycle(config, Narrator(io.StringIO()))
    found.pretrained = [
        results.commit(zoo, "bert", {}, kind="pretrained", history=results.history()),
        results.commit(zoo, "gpt", {}, kind="pretrained"),
    ]
    found.selected = results.selection_report()
    found.learned = results.commit(zoo, "learned", {MATRIX_FILE: results.stream_evaluation()})
    found.stream = results.stream_summary(unwatched_heads=("areas",))
    files = {PARETO_FILE: results.pareto_report(), SELECTION_FILE: found.selected}
    found.quantized = results.commit(zoo, "small", files, kind="quantized")
    found.metrics = results.quantize_metrics()
    found.scores = tuple(FALLS)
    found.traffic = Traffic(
        "http://localhost", [1.0, 2.0], 1, 0.5, [("a text", "news (0.90)", "news")]
    )
    return found


def test_the_last_chapter_shows_the_lost_points(life):
    chapter = life.finish()
    assert chapter.points_lost.total == pytest.approx(6)
    shown = life.narrator.stream.getvalue()
    assert "accuracy lost after selection: 6.0 points" in shown
    assert "not measured: areas" in shown


def test_the_page_shows_every_stage_and_the_lost_points(life):
    page = report(life, DemoSummary.model_validate(SUMMARY))
    assert [section.title for section in page.sections] == [
        "Pre-training",
        "Performance matrix",
        "Selection for topics",
        "Continual learning",
        "Quantization",
        "Every head after every stage",
        "Serving",
    ]
    assert page.facts["of brute force's cost"] == "75%"
    assert page.facts["GEMMs in INT8"] == "2 of 2"
    text = page.html()
    assert "accuracy lost after selection: 6.0 points" in text
    assert "gpt has no history: its curve is missing." in text
    assert "topics: 0.800 when learned, 0.780 served; kept within 0.05" in text
    assert text.count("<svg") == 7
