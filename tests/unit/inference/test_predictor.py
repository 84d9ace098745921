"""A package as a callable: the same answers whatever the batches, for every kind of head."""

import threading

import numpy as np
import pytest
import torch

from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference import inputs
from orchestrator.inference.heads import package_tasks
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny

HEADS = (
    {"type": "cls", "name": "topic", "num_labels": 3},
    {"type": "multilabel", "name": "flags", "num_labels": 2},
    {"type": "tags", "name": "ner", "num_labels": 3},
    {"type": "regression", "name": "score"},
    {"type": "mlm"},
)
TEXTS = [*SENTENCES, "short", "Return the sum " * 12]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(str(tmp_path_factory.mktemp("zoo")))


@pytest.fixture(scope="module")
def package(zoo):
    return commit_tiny(zoo, "many", targets=HEADS)


@pytest.fixture(scope="module")
def predictor(package):
    return Predictor.open(package)


def test_every_head_with_labels_is_a_task(predictor):
    kinds = {name: task.kind() for name, task in predictor.tasks.items()}
    assert kinds == {
        "topic": "classification",
        "flags": "multilabel",
        "ner": "tags",
        "score": "regression",
    }


@pytest.mark.parametrize("head", ["topic", "flags", "ner", "score"])
def test_an_answer_does_not_depend_on_the_batch(predictor, package, head):
    together = predictor.answers(rows_of_texts(TEXTS), head)
    alone = [predictor.answers(rows_of_texts([text]), head)[0] for text in TEXTS]
    small = Predictor.open(package)
    small._batch_tokens = 40
    for other in (alone, small.answers(rows_of_texts(TEXTS), head)):
        assert len(other) == len(TEXTS)
        for first, second in zip(together, other, strict=True):
            assert flat(first) == pytest.approx(flat(second), abs=1e-5)


def flat(answer):
    """The numbers of an answer."""
    found = []

    def walk(value):
        if isinstance(value, dict):
            for part in value.values():
                walk(part)
        elif isinstance(value, list | tuple):
            for part in value:
                walk(part)
        elif isinstance(value, int | float):
            found.append(float(value))

    walk(answer.to_json())
    return found


def test_answers_are_those_of_the_model(predictor, package):
    model = load_model(package.path).eval()
    processor = predictor.processor
    for text in TEXTS:
        with torch.no_grad():
            logits = model.predict(processor([text], max_length=predictor.max_length))["topic"]
        (answer,) = predictor.answers(rows_of_texts([text]), "topic")
        assert answer.scores == pytest.approx(torch.softmax(logits[0], 0).tolist(), abs=1e-5)


def test_texts_are_tokenized_while_the_model_runs(predictor, monkeypatch):
    expected = predictor.answers(rows_of_texts(TEXTS), "topic")
    threads, encode = [], predictor.reader.encode

    def watched(items, task=None):
        threads.append(threading.current_thread().name)
        if any(item.text == "broken" for item in items):
            raise InputError("broken text")
        return encode(items, task)

    monkeypatch.setattr(inputs, "BLOCK_ROWS", 2)
    monkeypatch.setattr(predictor.reader, "encode", watched)
    found = predictor.answers(rows_of_texts(TEXTS), "topic")
    for each, other in zip(found, expected, strict=True):
        assert flat(each) == pytest.approx(flat(other), abs=1e-5)
    assert threads == ["prefetch"] * -(-len(TEXTS) // 2)
    with pytest.raises(InputError, match="broken text"):
        predictor.answers(rows_of_texts([*TEXTS, "broken"]), "topic")
    assert not [each for each in threading.enumerate() if each.name == "prefetch"]


def test_embeddings_come_in_order(predictor):
    vectors = predictor.embed(rows_of_texts(TEXTS))
    assert vectors.shape == (len(TEXTS), 16)
    for index in (0, 6, 7):
        assert predictor.embed(rows_of_texts([TEXTS[index]]))[0] == pytest.approx(
            vectors[index], abs=1e-5
        )


def test_progress_counts_rows(predictor):
    seen = []
    predictor.answers(rows_of_texts(TEXTS), "topic", progress=seen.append)
    assert sum(seen) == len(TEXTS)


def test_rows_are_measured(predictor):
    rows = Rows(TEXTS, None, np.asarray([0, 1, 2, 0, 1, 2, 0, 1]))
    measured = predictor.measure(rows, "topic")
    right = np.mean(
        [
            answer.label == f"LABEL_{label}"
            for answer, label in zip(predictor.answers(rows, "topic"), rows.labels, strict=True)
        ]
    )
    assert measured.primary.value == pytest.approx(right)


def test_several_heads_need_a_name(predictor):
    with pytest.raises(InputError, match="several heads: topic, flags, ner, score"):
        predictor.answers(rows_of_texts(["text"]))
    with pytest.raises(InputError, match="Did you mean 'topic'"):
        predictor.answers(rows_of_texts(["text"]), "topics")


def test_one_head_needs_none(zoo):
    package = commit_tiny(zoo, "single")
    (answer,) = Predictor.open(package).answers(rows_of_texts(["text"]))
    assert answer.label in LABELS


def test_a_package_without_tasks_says_so(zoo):
    package = commit_tiny(zoo, "words", targets=({"type": "mlm"},))
    with pytest.raises(InputError, match="answers no labelled task"):
        Predictor.open(package).answers(rows_of_texts(["text"]))
    assert Predictor.open(package).embed(rows_of_texts(["text"])).shape == (1, 16)


def test_labels_that_do_not_fit_are_refused(zoo):
    with zoo.draft(
        "wrong",
        kind="finetuned",
        producer={},
        parents=[],
        task={"kind": "classification", "labels": {"topic": ["a", "b"]}},
        metrics={},
    ) as draft:
        from tests.support.packages import write_tiny

        write_tiny(draft.path)
        package = draft.commit()
    with pytest.raises(IntegrityError, match="3 outputs, its manifest names 2 labels"):
        package_tasks(package)
