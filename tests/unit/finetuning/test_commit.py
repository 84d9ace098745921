"""The package that a run commits: heads, suite, task, gate. Trained in this process."""

import pytest

from orchestrator.cluster.context import Worker
from orchestrator.errors import RefusedError
from orchestrator.finetuning import runner
from orchestrator.finetuning.inputs import job_of
from orchestrator.finetuning.results import EVALUATION, FinetuneEvaluation
from orchestrator.finetuning.worker import finetune
from orchestrator.inference.predictor import Predictor
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite
from tests.support.lessons import RATE, job, make_lessons


@pytest.fixture
def place(tmp_path, monkeypatch):
    def here(folder, inputs):
        return finetune(Worker.alone(folder.path), job_of(inputs, folder.path, RATE)).result

    monkeypatch.setattr(runner, "_train", here)
    return make_lessons(tmp_path)


def test_the_package_answers_and_carries_its_suite(place):
    train = {"epochs": 8, "global_batch_size": 16, "max_length": 16, "patience": None}
    config = job(place, "multilabel", train=train)
    result = runner.run(config)
    assert runner.run(config) == result  # nothing finished runs twice
    package = Zoo(place / "zoo").get(result.package)
    suite, evaluation = read_suite(package), package.read_model(EVALUATION, FinetuneEvaluation)
    assert (suite.default, package.manifest.task.default) == ("child", "child")
    exam = suite.exams["child"]
    assert exam.task.options == evaluation.tasks[0].task.options
    assert exam.metrics["micro_f1"].value == pytest.approx(result.metrics["micro_f1"])
    assert evaluation.dropped_heads == ("earlier",)
    assert [parent.ref for parent in package.manifest.parents] == ["encoder/v0001"]
    answers = Predictor.open(package).answers(config_rows(config))
    assert set(answers[0].labels) <= {"animal", "fruit", "tool"}


def config_rows(config):
    from orchestrator.data.rows.label_forms import FORMS
    from orchestrator.data.sources.opening import load_task

    return load_task(config.data, form=FORMS["multilabel"]).test


def test_a_kept_head_that_cannot_be_measured_is_refused(place):
    config = job(place, keep_heads=True, train={"epochs": 1, "max_length": 16})
    with pytest.raises(RefusedError, match="earlier: unverified"):
        runner.run(config)
    (package,) = [each for each in Zoo(place / "zoo").packages() if each.name == "child"]
    assert package.rejected
