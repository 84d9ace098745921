import numpy as np
import pytest

from orchestrator.data.rows.splitting import fingerprint
from orchestrator.data.sources import pydoc_tasks
from orchestrator.data.sources.docstrings import Docstring
from orchestrator.data.sources.opening import load_task
from orchestrator.data.sources.pydoc_tasks import (
    AREAS,
    FORMS,
    ROLE_TASK,
    description_of,
    without_header,
)
from orchestrator.data.spec import PYDOC_TASKS, DatasetSpec
from orchestrator.errors import InputError

LEARNABLE = ("numpy_area", "style", "returns_value")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few documents: enough to see that a task can be learned."""
    monkeypatch.setattr(pydoc_tasks, "CLASS_ROWS", 150)
    monkeypatch.setattr(pydoc_tasks, "POOL_DOCUMENTS", 120)
    monkeypatch.setattr(pydoc_tasks, "MIN_CLASS_ROWS", 30)


def load(task, cache, **changes):
    return load_task(DatasetSpec(source=f"builtin:pydoc/{task}", **changes), cache)


def test_the_catalogue_is_what_can_be_cut():
    assert set(PYDOC_TASKS) == {*AREAS, *FORMS, "library", ROLE_TASK}


@pytest.mark.parametrize("task", LEARNABLE)
def test_a_linear_model_beats_the_majority_class(task, cache):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    data = load(task, cache)
    words = TfidfVectorizer(sublinear_tf=True)
    model = LogisticRegression(max_iter=200).fit(
        words.fit_transform(data.train.texts), data.train.labels
    )
    accuracy = model.score(words.transform(data.test.texts), data.test.labels)
    assert accuracy > data.majority_accuracy + 0.1
    assert accuracy < 1


@pytest.mark.parametrize("task", LEARNABLE)
def test_splits_share_no_text_and_every_class_is_in_each(task, cache):
    data = load(task, cache)
    splits = [data.split(name) for name in ("train", "validation", "test")]
    seen = [fingerprint(text) for rows in splits for text in rows.texts]
    assert len(set(seen)) == len(seen)
    for rows in splits:
        assert set(rows.labels) == set(range(len(data.label_names)))
    sizes = np.bincount(np.concatenate([rows.labels for rows in splits]))
    assert 30 <= sizes.min() <= sizes.max() <= 150


def test_the_same_spec_gives_the_same_rows_and_a_seed_other_splits(cache):
    first, again, other = (load("style", cache, seed=s).train.texts for s in (1, 1, 2))
    assert first == again
    assert set(first) != set(other)


def test_a_cap_keeps_the_classes_even(cache):
    data = load("style", cache, max_rows=60)
    sizes = np.bincount(
        np.concatenate([data.split(s).labels for s in ("train", "validation", "test")])
    )
    assert sizes.tolist() == [60 // len(sizes)] * len(sizes)


def test_too_few_rows_are_refused(cache, monkeypatch):
    monkeypatch.setattr(pydoc_tasks, "MIN_CLASS_ROWS", 100_000)
    with pytest.raises(InputError, match="fewer than two classes of 100000 rows"):
        load("style", cache)


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("Do it.\n\nParameters\n----------\nx : int", "Do it."),
        ("Do it.\n\nArgs:\n    x: a number\nReturns: y", "Do it."),
        ("Do it.\n:param x: a number", "Do it."),
        ("Do it.\n\n>>> f(1)\n2", "Do it."),
        ("Do it.\n\n.. versionadded:: 1", "Do it."),
        ("Do it, see Parameters and Returns below.", "Do it, see Parameters and Returns below."),
        ("Returns: the value", ""),
    ],
)
def test_description_ends_where_the_sections_begin(text, description):
    assert description_of(text) == description


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch.nn.functional\n===================\n\nMore text.", "More text."),
        ("scipy/stats/_qmc.py\nMore text.", "More text."),
        ("Summary\nMore text.", "Summary\nMore text."),
        ("See torch.nn for more.\nText.", "See torch.nn for more.\nText."),
    ],
)
def test_path_headers_are_dropped(text, expected):
    assert without_header(text) == expected


@pytest.mark.parametrize(
    ("task", "fields", "label"),
    [
        ("style", {"text": "A.\n\nReturns\n-------\nx"}, "numpy"),
        ("style", {"text": "A.\n\nArgs:\n    x: y"}, "google"),
        ("style", {"text": "A.\n\n:param int x: y"}, "sphinx"),
        ("style", {"text": "A."}, "plain"),
        ("returns_value", {"returns": True}, "value"),
        ("returns_value", {"returns": False}, "nothing"),
        ("returns_value", {"returns": None}, None),
        ("returns_value", {"kind": "class"}, None),
        ("raises_error", {"raises": True}, "raises"),
        ("is_property", {"kind": "method", "is_property": True, "arguments": 0}, "property"),
        ("is_property", {"kind": "method", "arguments": 0}, "method"),
        ("is_property", {"kind": "method", "arguments": 1}, None),
        ("is_private", {"path": "a.b._c"}, "private"),
        ("is_private", {"path": "a._b.c"}, "public"),
        ("is_private", {"path": "a.b.__len__"}, None),
        ("arguments", {"arguments": 0}, "none"),
        ("arguments", {"arguments": 3}, "two or three"),
        ("arguments", {"arguments": 9}, "four or more"),
        ("documents_parameters", {"text": "A.\n\nArgs:\n  x", "arguments": 1}, "listed"),
        ("documents_parameters", {"text": "A.", "arguments": 1}, "not listed"),
        ("documents_parameters", {"text": "A.", "arguments": 0}, None),
        ("has_example", {"text": "A.\n\n>>> 1"}, "example"),
        ("has_example", {"text": "A."}, "no example"),
        ("kind", {"kind": "class"}, "class"),
    ],
)
def test_labels_of_forms(task, fields, label):
    base = Docstring("A text.", "function", "a.b.c", arguments=1, returns=True, raises=False)
    assert FORMS[task][0](base._replace(**fields)) == label
