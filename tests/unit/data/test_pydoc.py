import sys
from collections import Counter

import pandas as pd
import pytest

from orchestrator.data.sources import docstrings, pydoc
from orchestrator.data.sources.docstrings import Library, find_library, list_files
from orchestrator.data.sources.pydoc import Shelf, corpus_records, fill
from orchestrator.errors import InputError

FUNCTION = 'def f{0}():\n    """Return what {1} calls the number {0}, as every caller expects."""\n'


def make_library(root, name, files, functions=3, version="1.0"):
    """Write a library of files with some documented functions each."""
    number = 0
    for i in range(files):
        file = root / name / f"part{i % 3}" / f"m{i}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(FUNCTION.format(number + k, name) for k in range(functions))
        number += functions
        file.write_text(text)
    return Library(name, version, root / name)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Three libraries in place of the installed ones: 90, 30 and 6 docstrings."""
    list_files.cache_clear()
    found = [
        make_library(tmp_path, name, files)
        for name, files in (("big", 30), ("mid", 10), ("low", 2))
    ]
    monkeypatch.setattr(pydoc, "usual_libraries", lambda: found)
    return found


def counts(frame):
    return Counter(frame.library)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (15, {"big": 5, "mid": 5, "low": 5}),
        (50, {"big": 22, "mid": 22, "low": 6}),
        (100, {"big": 64, "mid": 30, "low": 6}),
        (None, {"big": 90, "mid": 30, "low": 6}),
        (500, {"big": 90, "mid": 30, "low": 6}),
    ],
)
def test_libraries_share_a_cap(installed, tmp_path, limit, expected):
    assert counts(corpus_records(limit, cache=tmp_path)) == expected


def test_only_the_files_that_a_cap_needs_are_parsed(installed, tmp_path, monkeypatch):
    read = []
    original = pydoc.read_docstrings
    monkeypatch.setattr(pydoc, "read_docstrings", lambda f, m: read.append(f) or original(f, m))
    corpus_records(15, cache=tmp_path)
    assert len(read) == 6
    corpus_records(15, cache=tmp_path)
    assert len(read) == 6


def test_the_cache_gives_the_same_table(installed, tmp_path):
    fresh = corpus_records(50, cache=tmp_path)
    cached = corpus_records(50, cache=tmp_path)
    pd.testing.assert_frame_equal(fresh, cached)
    assert cached.attrs == fresh.attrs


def test_another_version_is_read_again(installed, tmp_path, monkeypatch):
    corpus_records(15, cache=tmp_path)
    newer = [Library(lib.name, "2.0", lib.root) for lib in installed]
    monkeypatch.setattr(pydoc, "usual_libraries", lambda: newer)
    corpus_records(15, cache=tmp_path)
    assert len(list((tmp_path / "pydoc").iterdir())) == 2


def test_a_damaged_cache_is_built_again(installed, tmp_path):
    fresh = corpus_records(15, cache=tmp_path)
    (file,) = (tmp_path / "pydoc").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    pd.testing.assert_frame_equal(corpus_records(15, cache=tmp_path), fresh)


def test_a_cache_that_cannot_be_written_is_no_error(installed, tmp_path):
    (tmp_path / "pydoc").write_text("a file where the folder would be")
    assert len(corpus_records(15, cache=tmp_path)) == 15


def test_unreadable_files_are_counted(installed, tmp_path):
    (installed[2].root / "broken.py").write_text('"""Broken""" (')
    list_files.cache_clear()
    assert corpus_records(None, cache=tmp_path).attrs["rejected"] == {"not parseable": 1}


def test_equal_texts_count_once(tmp_path):
    same = [make_library(tmp_path / where, "twin", 2) for where in "ab"]
    assert len(fill([Shelf(library) for library in same], None)) == 6


def test_order_of_files_is_by_hash_and_leaves_out_tests(tmp_path):
    list_files.cache_clear()
    library = make_library(tmp_path, "big", 30)
    for folder in ("tests", "_vendor", "__pycache__"):
        (library.root / folder).mkdir()
        (library.root / folder / "x.py").write_text("")
    files = list_files(library)
    assert len(files) == 30
    assert list(files) != sorted(files)
    moved = Library("big", "1.0", make_library(tmp_path / "other", "big", 30).root)
    assert list_files(moved) == files
    assert set(list_files(library, ("part1", "part2/m2.py"))) == {
        f for f in files if f.startswith("part1/") or f == "part2/m2.py"
    }


def test_dotted_paths():
    library = Library("pkg", "1", None)
    assert library.module("a/b.py") == "pkg.a.b"
    assert library.module("__init__.py") == "pkg"
    assert Library("stdlib", "3", None).module("json/__init__.py") == "json"


def test_installed_libraries_are_found_and_not_imported(tmp_path):
    before = set(sys.modules)
    found = corpus_records(40, ["jsonschema", "stdlib", "networkx"], tmp_path)
    assert set(found.library) == {"jsonschema", "stdlib", "networkx"}
    assert find_library("sklearn").version == __import__("importlib.metadata").metadata.version(
        "scikit-learn"
    )
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not new & {"jsonschema", "networkx"}
    assert found.text.str.len().min() >= 40


def test_a_library_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'torhc'.*Did you mean 'torch'"):
        corpus_records(10, ["torhc"], tmp_path)


def test_usual_libraries_are_those_of_the_project():
    names = [library.name for library in docstrings.usual_libraries()]
    assert {"stdlib", "torch", "numpy", "ray", "sklearn"} <= set(names)
    assert "moto" not in names
