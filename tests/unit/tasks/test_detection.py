"""The task kind of a table, from its columns and first labels."""

import json

import pytest

from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.tasks.detection import detect_kind, kind_of_rows

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
        ([{"text": "a b", "label": "x", "tags": ["u", "v", "w"]}], "classification"),
        ([{"question": "q", "context": "a b", "answers": {"text": ["a"]}}], "question_answering"),
        ([{"query": "q", "passage": "a b", "answer": "b"}], "question_answering"),
        ([{"question": "q", "context": "a", "is_impossible": True}], "question_answering"),
        ([{"text": "q", "choices": ["x", "y"], "label": 1}], "multiple_choice"),
        ([{"question": "q", "options": '["x", "y"]', "answer": "A"}], "multiple_choice"),
        ([{"sent1": "q", "ending0": "x", "ending1": "y", "label": 0}], "multiple_choice"),
        ([{"question": "q", "A": "x", "B": "y", "answer": "B"}], "multiple_choice"),
        ([{"sentence1": "a", "sentence2": "b", "score": 0.5}], "similarity"),
        ([{"question1": "a", "question2": "b", "is_duplicate": 1}], "similarity"),
        ([{"anchor": "a", "positive": "b", "negative": "c"}], "similarity"),
        ([{"text_a": "a", "text_b": "b", "similarity": 4}], "similarity"),
        ([{"text_a": "a", "text_b": "b", "label": "same"}], "classification"),
        ([{"text_a": "a", "text_b": "b", "label": 1}], "classification"),
        ([{"prompt": "a", "completion": "b"}], "generation"),
        ([{"document": "a", "summary": "b"}], "generation"),
        ([{"path": "a.wav", "text": "said"}], "transcription"),
        ([{"audio": "a.flac", "transcript": "said"}], "transcription"),
        ([{"audio": "a.flac", "label": "dog"}], "classification"),
        ([{"image": "a.png", "label": "dog"}], "classification"),
    ],
)
def test_kinds(rows, kind):
    assert kind_of_rows(SPEC, rows).kind == kind


AMBIGUOUS = {
    "a score of two texts": (
        [{"text_a": "a", "text_b": "b", "score": 0.5}], "similarity", "regression",
    ),
    "numbers of a pair": (
        [{"sentence1": "a", "sentence2": "b", "label": 1}], "similarity", "classification",
    ),
    "many numbers": (
        [{"text": "a", "label": number} for number in range(30)], "classification", "regression",
    ),
    "questions and answers": ([{"question": "a", "answer": "b"}], "similarity", "generation"),
    "recordings with both": (
        [{"path": "a.wav", "text": "said", "label": "dog"}], "transcription", "classification",
    ),
    "tags and candidates": (
        [{"tokens": ["a"], "tags": ["O"], "choices": ["x", "y"], "answer": 0}],
        "tags", "multiple_choice",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "one", "other"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_two_kinds_read_is_one_error_that_names_both(rows, one, other):
    with pytest.raises(InputError) as caught:
        kind_of_rows(SPEC, rows, setting="tasks.1.task")
    message = str(caught.value)
    assert f"tasks.1.task={one}" in message
    assert f"{one} (" in message
    assert f"{other} (" in message
    assert ", ".join(rows[0]) in message


def test_a_kind_that_the_model_has_no_head_for_is_not_considered():
    rows = [{"question": "a", "answer": "b"}]
    config = {"encoder": {"type": "transformer"}, "vocab_size": 9, "target": "mlm"}
    assert kind_of_rows(SPEC, rows, ModelConfig.model_validate(config)).kind == "similarity"


def test_a_folder_of_sounds_is_transcribed_where_texts_lie_beside_them(tmp_path):
    spec = DatasetSpec(source=f"files:{tmp_path}")
    for name in ("dog/1.wav", "cat/2.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    assert detect_kind(spec).kind == "classification"
    (tmp_path / "dog/1.txt").write_text("woof")
    assert detect_kind(spec).kind == "transcription"


def test_squad_json_and_named_classes_are_recognized(tmp_path):
    qas = [{"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}]
    paragraphs = [{"context": "Ada ran.", "qas": qas}]
    squad = {"version": "v2", "data": [{"title": "t", "paragraphs": paragraphs}]}
    (tmp_path / "train-v2.0.json").write_text(json.dumps(squad))
    spec = DatasetSpec(source=f"files:{tmp_path}/train-v2.0.json")
    assert detect_kind(spec).kind == "question_answering"
    (tmp_path / "named").mkdir()
    (tmp_path / "named/labels.txt").write_text("".join(f"{i}\n" for i in range(40)))
    rows = "".join(f"a,{i}\n" for i in range(40))
    (tmp_path / "named/train.csv").write_text(f"text,label\n{rows}")
    assert detect_kind(DatasetSpec(source=f"files:{tmp_path}/named")).kind == "classification"


def test_the_named_column_decides():
    rows = [{"text": "a", "label": "x", "grade": 0.5}]
    spec = SPEC.model_copy(update={"label_column": "grade"})
    assert kind_of_rows(spec, rows).kind == "regression"


def test_other_sources_are_classes(tmp_path):
    assert detect_kind(DatasetSpec(source="builtin:digits")).kind == "classification"
    (tmp_path / "ner.conll").write_text("Ada B-PER\nruns O\n\nBob B-PER\n")
    assert detect_kind(DatasetSpec(source=f"files:{tmp_path}/ner.conll")).kind == "tags"
