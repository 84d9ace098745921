"""The page of a fine-tuning run: what a real run, trained in this process, leaves behind."""

import re

import pytest

from orchestrator.cli import main
from orchestrator.cluster.context import Worker
from orchestrator.errors import RefusedError
from orchestrator.finetuning import runner
from orchestrator.finetuning.evaluating.results import ANSWERS_FILE, StoredAnswers
from orchestrator.finetuning.inputs import job_of
from orchestrator.finetuning.worker import finetune
from orchestrator.report.pages import package_page
from orchestrator.storage import read_model
from orchestrator.zoo import Zoo
from tests.support.lessons import RATE, job, make_lessons

TRAIN = {"epochs": 3, "global_batch_size": 16, "max_length": 16, "log_every_steps": 2}


@pytest.fixture
def place(tmp_path, monkeypatch):
    def here(folder, inputs):
        return finetune(Worker.alone(folder.path), job_of(inputs, folder.path, RATE)).result

    monkeypatch.setattr(runner, "_train", here)
    return make_lessons(tmp_path)


def page_of(place, run="lesson"):
    assert main(["report", str(place / "runs" / run), "--zoo", str(place / "zoo"), "-o", "p"]) == 0
    return re.sub(r"\s+", " ", (place / "p").read_text())


def test_the_page_of_a_run_shows_curves_figures_answers_and_the_suite(place, monkeypatch):
    monkeypatch.chdir(place)
    result = runner.run(job(place, train=TRAIN))
    stored = read_model(place / "runs/lesson" / ANSWERS_FILE, StoredAnswers).heads["child"]
    page = page_of(place)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Fine-tuning of child", "Labels", "Calibration", "Worst rows", "Suite"]
    assert page.count("<svg") == 4  # loss, accuracy, confusion, calibration
    assert f"{result.metrics['accuracy']:.4g}" in page
    assert "Accepted: no promise is broken." in page
    assert "heads dropped</td><td>earlier" in page
    assert stored.worst[0].text in page
    assert [row.label for row in stored.labels] == ["animal", "fruit", "tool"]
    assert "Suite" in [s.title for s in package_page(Zoo(place / "zoo"), "child").sections]
    package = Zoo(place / "zoo").get("child")
    assert not any("answers" in name for name in package.manifest.files)


def test_a_refused_package_says_why_and_several_heads_are_told_apart(place, monkeypatch):
    monkeypatch.chdir(place)
    tasks = [
        {"data": {"source": f"files:{place}/task2.jsonl"}, "head": "thing"},
        {"data": {"source": f"files:{place}/tags.jsonl"}, "head": "found"},
    ]
    with pytest.raises(RefusedError):
        runner.run(job(place, data=None, tasks=tasks, keep_heads=True, train=TRAIN))
    zoo = Zoo(place / "zoo")
    (package,) = [each for each in zoo.packages() if each.name == "child"]
    page = package_page(zoo, package.ref, place / "runs/lesson").html()
    assert "Rejected: " in page
    assert "earlier: unverified" in page
    assert "Labels of thing" in page
    assert "Worst rows of found" in page


def test_nothing_of_the_rows_is_stored_where_the_suite_keeps_none(place):
    runner.run(job(place, train=TRAIN, suite={"keep_rows": 0}))
    assert not (place / "runs/lesson" / ANSWERS_FILE).exists()


def test_the_page_shows_the_teacher_and_the_trials_of_a_search(place):
    from orchestrator.finetuning.results import FinetuneEvaluation, GridTrialResult, GridValues
    from orchestrator.report.finetuning import finetuning_sections

    result = runner.run(job(place, train=TRAIN))
    package = Zoo(place / "zoo").get(result.package)
    trials = [
        GridTrialResult(
            values=GridValues(learning_rate=rate, global_batch_size=16, epochs=2),
            scores=(0.25, score), loss=0.5, steps=10, seconds=1.5, error=error,
        )
        for rate, score, error in ((0.01, 0.875, None), (3.0, float("nan"), "not finite"))
    ]  # fmt: skip
    update = {"teacher": "big/v0001", "grid": tuple(trials)}

    class Searched:
        def __getattr__(self, name):
            return getattr(package, name)

        def read_model(self, path, kind):
            assert kind is FinetuneEvaluation
            return package.read_model(path, kind).model_copy(update=update)

    (section,) = finetuning_sections(Searched())
    table = section.blocks[-1]
    assert table.rows[0] == (0.01, 16, 2, "0.250, 0.875", 10, 1.5, None)
    assert (table.rows[1][-1], table.highlight) == ("not finite", 0)
    assert "accuracy after each epoch" in table.columns
    assert any("big/v0001" in str(row) for block in section.blocks for row in block_rows(block))


def block_rows(block):
    return getattr(block, "rows", ())
