"""The Hub reader against a stand-in for `datasets`: the library is optional and needs a network."""

import sys
from types import SimpleNamespace

import pytest

from orchestrator.data.sources.opening import load_task, open_documents
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

SPEC = DatasetSpec(source="hf:owner/set", revision="abc123", subset="small")


class Split(list):
    """Rows with the two attributes of a data set that are read."""

    def __init__(self, rows):
        super().__init__(rows)
        self.column_names = ["text", "label"]
        self.features = {"label": SimpleNamespace(names=["bad", "good"])}

    def select_columns(self, names):
        return Columns([{name: row[name] for name in names} for row in self])


class Columns(list):
    """A slice of a data set is a list a column."""

    def __getitem__(self, rows):
        found = list.__getitem__(self, rows)
        return {name: [row[name] for row in found] for name in names_of(self)}


def names_of(rows):
    return list(next(iter(rows), {}))


def rows(start, stop):
    return Split({"text": f"text {i}", "label": i % 2} for i in range(start, stop))


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        return {"train": rows(0, 20), "validation": rows(20, 26), "unsupervised": rows(0, 3)}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_pinned_revision_is_read(asked):
    data = load_task(SPEC)
    assert asked == [("owner/set", {"name": "small", "revision": "abc123"})]
    assert data.label_names == ("bad", "good")
    assert len(data.validation) == 6
    assert len(data.train) + len(data.test) == 20


def test_documents_are_those_of_train(asked):
    spec = SPEC.model_copy(update={"max_documents": 3})
    assert list(open_documents(spec)) == ["text 0", "text 1", "text 2"]


def test_failures_are_explained(asked, monkeypatch):
    with pytest.raises(InputError, match=r"no column 'lable'.*Did you mean 'label'"):
        load_task(SPEC.model_copy(update={"label_column": "lable"}))

    def fail(*_, **__):
        raise ConnectionError("no route to the Hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(InputError, match="revision abc123 cannot be loaded: no route"):
        load_task(SPEC)
    only_test = SimpleNamespace(load_dataset=lambda *_, **__: {"test": rows(0, 3)})
    monkeypatch.setitem(sys.modules, "datasets", only_test)
    with pytest.raises(InputError, match=r"no train split\. Splits: test"):
        load_task(SPEC)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"ray-model-orchestrator\[hub\]"):
        load_task(SPEC)
