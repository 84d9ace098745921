import json
import subprocess
import sys

import pytest

from orchestrator.config import collect_problems, require_no_problems
from orchestrator.data.spec import CorpusConfig, DatasetSpec, TokenizerConfig
from orchestrator.errors import ConfigError


def problems(model):
    return {problem.path: problem.message for problem in collect_problems(model)}


@pytest.mark.parametrize(
    "source",
    ["builtin:pydoc", "builtin:pydoc/library", "builtin:digits", "files:a/b.tsv", "files:/x"],
)
def test_good_sources_have_no_problems(source):
    assert problems(DatasetSpec(source=source)) == {}


def test_parts_of_a_source():
    task = DatasetSpec(source="builtin:pydoc/kind")
    assert (task.scheme, task.location, task.pydoc_task) == ("builtin", "pydoc/kind", "kind")
    assert DatasetSpec().pydoc_task is None
    assert DatasetSpec(source="files:C:/x").location == "C:/x"


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"source": "builtin:pydok"}, "source", ["pydok", "Did you mean 'pydoc'"]),
        ({"source": "builtin:pydoc/libary"}, "source", ["Did you mean 'pydoc/library'"]),
        ({"source": "builtin:pydoc/"}, "source", ["pydoc/"]),
        ({"source": "http://x"}, "source", ["'http://x'", "files:<path>"]),
        ({"source": "files:"}, "source", ["files:<path>"]),
        ({"source": "hf:ag_news"}, "revision", ["required", "commit"]),
        ({"revision": "abc"}, "revision", ["hf:"]),
        ({"source": "files:x", "libraries": ("torch",)}, "libraries", ["builtin:pydoc"]),
        ({"text_column": "text"}, "text_column", ["no columns"]),
    ],
)
def test_each_mistake_is_named(changes, path, words):
    found = problems(DatasetSpec(**changes))
    assert list(found) == [path]
    assert all(word in found[path] for word in words)


def test_a_corpus_has_one_cap():
    twice = CorpusConfig(data=DatasetSpec(max_documents=10), max_documents=20)
    assert "twice" in problems(twice)["max_documents"]
    assert [spec.max_documents for spec in CorpusConfig(max_documents=20).specs] == [20]
    with pytest.raises(ConfigError):
        require_no_problems(twice, "test")


def test_a_mixture_is_corpora_in_place_of_one():
    mixture = [{"data": {"source": "builtin:pydoc"}, "weight": 3}, {"data": {"source": "files:x"}}]
    config = CorpusConfig.model_validate({"mixture": mixture, "max_documents": 9})
    assert problems(config) == {}
    assert config.weights == (3, 1)
    assert [(s.source, s.max_documents) for s in config.specs] == [
        ("builtin:pydoc", 9),
        ("files:x", 9),
    ]
    both = CorpusConfig.model_validate({"mixture": mixture, "data": {"source": "files:y"}})
    assert "both" in problems(both)["data"]
    rows = CorpusConfig.model_validate({"mixture": [{"data": {"source": "builtin:digits"}}]})
    assert "not a corpus" in problems(rows)["mixture.0.data.source"]


def test_sentinels_are_part_of_a_vocabulary_that_is_trained():
    assert (
        "Raise vocab_size" in problems(TokenizerConfig(vocab_size=310, sentinels=20))["sentinels"]
    )
    assert "sentinels" in problems(TokenizerConfig(path="x", sentinels=20))
    assert problems(TokenizerConfig(vocab_size=320, sentinels=20)) == {}


def test_configs_need_neither_torch_nor_pandas():
    code = (
        "import json, sys, orchestrator.data, orchestrator.data.spec\n"
        "print(json.dumps([m for m in ('torch', 'ray', 'pandas', 'numpy') if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(found.stdout) == []
