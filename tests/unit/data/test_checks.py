"""What stands out in a data set: counted, shown, and refused where the test would be flattered."""

import numpy as np

from orchestrator.data.rows.checks import check_data
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import object_array
from orchestrator.data.rows.rows import Rows, TaskData


def rows(texts, labels):
    return Rows(texts, None, np.asarray(labels))


def test_a_clean_data_set_has_only_counts():
    data = TaskData("d", ("x", "y"), rows(["a", "b"], [0, 1]), rows(["c"], [1]), rows(["d"], [0]))
    report = check_data(data, lengths=lambda r: [len(t) for t in r.texts], max_length=1)
    assert report.rows == {"train": 2, "validation": 1, "test": 1}
    assert report.classes["train"] == {"x": 1, "y": 1}
    assert list(report.problems()) == []
    assert report.warnings() == [
        "validation has no row of x.",
        "test has no row of y.",
    ]


def test_duplicates_one_class_and_long_texts_are_counted_and_shown():
    train = rows(["a  b", "same", "same", "long " * 40], [0, 0, 0, 0])
    data = TaskData(
        "d", ("x", "y"), train, rows(["new"], [1]), rows(["a b", "z"], [0, 1]), {"NaN": 2}
    )
    report = check_data(data, lengths=lambda r: [len(t.split()) for t in r.texts], max_length=9)
    assert report.duplicates["train/test"].count == 1
    assert report.duplicates["train/test"].examples == ("a b",)
    assert report.repeated["train"].count == 1
    assert report.too_long["train"].count == 1
    assert len(report.too_long["train"].examples[0]) == 80
    problems = [str(problem) for problem in report.problems()]
    assert len(problems) == 2
    assert "one class only (x)" in problems[0]
    assert "1 rows are in both splits, such as 'a b'" in problems[1]
    warnings = " ".join(report.warnings())
    assert "2 rows were left out: NaN." in warnings
    assert "1 rows of train (25%) have more than 9 tokens" in warnings


def test_a_context_in_two_splits_is_a_duplicate_whatever_the_question():
    def asked(question, context):
        return Rows([question], [context], object_array([()]))

    data = TaskData("d", (), asked("q1", "one"), asked("q2", "two"), asked("q3", "one"))
    report = check_data(data, FORMS["answers"])
    assert list(report.duplicates) == ["train/test"]
    assert report.classes == {}
