"""The task kind of a table, from its columns and first labels."""

import pytest

from orchestrator.data.spec import DatasetSpec
from orchestrator.finetuning.detection import detect_kind, kind_of_rows

SPEC = DatasetSpec(source="files:x.jsonl")


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([{"text": "a b", "label": "spam"}, {"text": "c", "label": "ham"}], "classification"),
        ([{"text": "a b", "label": 1}, {"text": "c", "label": -1}], "classification"),
        ([{"text": "a", "label": "O"}, {"text": "b", "label": "I-am"}], "classification"),
        ([{"text": "a b", "label": "O B-X"}, {"text": "c", "label": "O"}], "tags"),
        ([{"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]}], "tags"),
        ([{"text": "a", "label": "x|y"}, {"text": "b", "label": "x"}], "multilabel"),
        ([{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}], "multilabel"),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1}], "regression"),
        ([{"text": "a", "score": "2.5"}, {"text": "b", "score": "3"}], "regression"),
        ([{"text": "a", "label": "0.5|1"}, {"text": "b", "label": "2|3"}], "regression"),
        ([{"text": "a", "label": [1, 2.5]}, {"text": "b", "label": [3, 4]}], "regression"),
    ],
)
def test_kinds(rows, kind):
    assert kind_of_rows(SPEC, rows).kind == kind


def test_the_named_column_decides():
    rows = [{"text": "a", "label": "x", "grade": 0.5}]
    spec = SPEC.model_copy(update={"label_column": "grade"})
    assert kind_of_rows(spec, rows).kind == "regression"


def test_other_sources_are_classes(tmp_path):
    assert detect_kind(DatasetSpec(source="builtin:digits")).kind == "classification"
    (tmp_path / "ner.conll").write_text("Ada B-PER\nruns O\n\nBob B-PER\n")
    assert detect_kind(DatasetSpec(source=f"files:{tmp_path}/ner.conll")).kind == "tags"
