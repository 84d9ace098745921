"""Slices of labelled rows: read from a column, measured in exams, and watched by the gate."""

import json
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.data.rows.storage import fingerprint, read_rows, write_rows
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.tasks.base import build_task
from orchestrator.tasks.kinds.classification import ClassAnswer
from orchestrator.tasks.measure import compare_all, measure, split_name
from orchestrator.tasks.suite import Parent, examine
from orchestrator.zoo.gate import Promotion, judge
from orchestrator.zoo.suite import Suite, TaskSpec

SPEC = TaskSpec(kind="classification", head="mail", labels=("ham", "spam"))


@pytest.fixture
def rows(tmp_path):
    table = [
        {"text": f"mail {i}", "label": SPEC.labels[i % 2], "from": ("de", "en", "en")[i % 3]}
        for i in range(120)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, table)))
    source = f"files:{tmp_path / 'rows.jsonl'}"
    return load_task(DatasetSpec(source=source, slice_column="from", test_fraction=0.4)).test


def answers(rows, wrong):
    """Answer rows; those of a slice wrongly."""
    truth = rows.labels ^ (np.asarray(rows.slices) == wrong)
    return [ClassAnswer(SPEC.labels[i], 0.9, (0.9, 0.1) if i == 0 else (0.1, 0.9)) for i in truth]


def test_an_exam_reports_the_primary_metric_of_each_slice(rows):
    task, german = build_task(SPEC), np.asarray(rows.slices) == "de"
    parent, child = (measure(task, rows, answers(rows, wrong)) for wrong in (None, "de"))
    assert child.metrics["accuracy@de"].value == 0
    assert child.metrics["accuracy@de"].rows == german.sum() > 0
    assert child.metrics["accuracy@en"].value == 1
    found = compare_all(parent, child)
    assert found["accuracy@de"].drop == 1
    assert found["accuracy@en"].lost == 0
    assert found["accuracy"].drop == pytest.approx(german.mean())
    plain = measure(task, replace(rows, slices=None), answers(rows, None))
    assert list(plain.metrics) == [metric.name for metric in task.metrics()]


def test_the_gate_watches_one_slice(rows, tmp_path):
    """The whole loses a third, which the job allows; one slice loses everything."""

    class Model:
        def __init__(self, wrong):
            self.tasks, self.wrong = {"mail": build_task(SPEC)}, wrong

        def answers(self, rows, head):
            return answers(rows, self.wrong)

    write_rows(tmp_path / "parent/evaluation/suite/mail.parquet", rows)
    promised = examine(Model(None), tmp_path / "parent", learned={"mail": learned(rows)})
    parent = Parent("mail/v0001", tmp_path / "parent", promised, Model(None))
    child = examine(Model("de"), tmp_path / "child", parent=parent)
    assert isinstance(child, Suite)
    limits = {"accuracy": 0.6}
    assert judge(promised, child, Promotion(max_drop={"mail": limits})).accepted
    verdict = judge(promised, child, Promotion(max_drop={"mail": limits | {"accuracy@de": 0.5}}))
    assert not verdict.accepted
    assert "accuracy@de: fell by 1.0000" in verdict.reasons[0]


def learned(rows):
    from orchestrator.data.rows.rows import TaskData
    from orchestrator.tasks.suite import Learned

    return Learned(build_task(SPEC), TaskData("mails", SPEC.labels, rows, rows, rows))


def test_slices_are_stored_and_do_not_change_what_rows_are(rows, tmp_path):
    write_rows(tmp_path / "rows.parquet", rows)
    back = read_rows(tmp_path / "rows.parquet")
    assert back.slices == rows.slices
    assert back.take([2, 0]).slices == [rows.slices[2], rows.slices[0]]
    assert fingerprint(back) == fingerprint(replace(rows, slices=None)) == fingerprint(rows)


def test_a_class_may_have_the_sign_of_a_slice():
    spec = SPEC.model_copy(update={"labels": ("a@b", "a")})
    metrics = build_task(spec).metrics()
    for name, known, part in [
        ("recall.a@b", "recall.a@b", None),
        ("recall.a@b@de", "recall.a@b", "de"),
        ("recall.a@de", "recall.a", "de"),
        ("accuracy@x@y", "accuracy", "x@y"),
    ]:
        metric, found = split_name(name, metrics)
        assert (metric.name, found) == (known, part)
    assert split_name("recall.none@de", metrics) == (None, None)
