"""Pages of packages in a real zoo: lineage, missing parts, results of other releases."""

import json

import pytest

from orchestrator.errors import InputError, IntegrityError
from orchestrator.pretraining.results import EVALUATION
from orchestrator.quantization.results import PARETO_FILE
from orchestrator.report.pages import package_of_run, package_page
from orchestrator.zoo import Zoo
from tests.support import results

SELECTION = "evaluation/selection.json"
MATRIX = "evaluation/accuracy_matrix.json"


@pytest.fixture
def zoo(tmp_path):
    return Zoo(tmp_path / "zoo")


def titles(page):
    return [section.title for section in page.sections]


def test_the_page_tells_the_whole_lineage_oldest_first(zoo):
    first = results.commit(
        zoo, "bert", {EVALUATION: results.evaluation()}, kind="pretrained",
        history=results.history(),
    )  # fmt: skip
    second = results.commit(
        zoo, "classifier", {SELECTION: results.selection_report()}, parents=[first]
    )
    third = results.commit(zoo, "learned", {MATRIX: results.stream_evaluation()}, parents=[second])
    last = results.commit(
        zoo, "small", {PARETO_FILE: results.pareto_report()}, kind="quantized", parents=[third],
        accuracy=0.79, integer_units=2, target="mail", promoted=True,
    )  # fmt: skip
    page = package_page(zoo, "small")
    assert page.title == last.ref
    assert page.subtitle == (
        "quantized; lineage bert/v0001 → classifier/v0001 → learned/v0001 → small/v0001"
    )
    assert page.facts == {"accuracy": "0.79", "integer units": "2"}
    assert titles(page) == [
        "Pre-training",
        "Training progress",
        "Performance matrix",
        "Selection for topics",
        "Continual learning",
        "Quantization",
    ]
    assert page.notes == []
    assert page.html().count("<svg") == 6


def test_parts_that_are_missing_are_named(zoo):
    bare = results.commit(zoo, "imported", {}, kind="imported")
    page = package_page(zoo, bare.ref)
    assert page.sections == []
    assert "imported/v0001 (imported) holds no results" in page.html()

    old = results.evaluation(skipped_steps=None, rollbacks=None)
    results.commit(zoo, "old", {EVALUATION: old}, kind="pretrained", history=results.history())
    page = package_page(zoo, "old")
    assert titles(page) == ["Pre-training"]
    assert "old/v0001 was made by an earlier release: training progress is missing." in page.notes

    results.commit(zoo, "unlogged", {EVALUATION: old}, kind="pretrained")
    assert "learning curves are missing" in package_page(zoo, "unlogged").html()

    report = results.selection_report(matrix={}, linkage=None)
    results.commit(zoo, "blind", {SELECTION: report})
    page = package_page(zoo, "blind")
    assert titles(page) == ["Selection for topics"]
    assert "the performance matrix is missing" in page.notes[0]


def test_results_that_cannot_be_read_are_named_not_skipped(zoo):
    content = results.pareto_report().model_dump(mode="json") | {"schema_version": 99}
    results.commit(zoo, "future", {PARETO_FILE: json.dumps(content)}, kind="quantized")
    with pytest.raises(IntegrityError, match=r"future/v0001.*pareto\.json[\s\S]*schema_version"):
        package_page(zoo, "future")


def test_the_package_of_a_run_is_that_of_its_result(tmp_path):
    with pytest.raises(InputError, match="not finished"):
        package_of_run(tmp_path)
    (tmp_path / "result.json").write_text('{"package": null}')
    with pytest.raises(InputError, match="made no package"):
        package_of_run(tmp_path)
    (tmp_path / "result.json").write_text('{"package": "small/v0001"}')
    assert package_of_run(tmp_path) == "small/v0001"
