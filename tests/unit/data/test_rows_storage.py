"""Rows of every form of labels come back as they were, and every change has another fingerprint."""

from dataclasses import fields, replace

import numpy as np
import pytest

from orchestrator.data.rows.rows import Rows
from orchestrator.data.rows.storage import fingerprint, read_rows, write_rows
from orchestrator.errors import IntegrityError

TEXTS = ["a text", "zwölf 火", ""]


def objects(*values):
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


ROWS = {
    "classes": Rows(TEXTS, None, np.array([1, 0, 2], np.int64)),
    "pairs": Rows(TEXTS, ["x", "y", "z"], np.array([1, 0, 0], np.int64)),
    "several names": Rows(TEXTS, None, np.array([[1, 0], [0, 0], [1, 1]], np.int64)),
    "numbers": Rows(TEXTS, None, np.array([[0.1], [-2.5], [3e-8]], np.float32)),
    "scores": Rows(TEXTS, TEXTS, np.array([0.1, 0.7, 1.0], np.float32)),
    "tags": Rows(
        ["a\nb", "c", "d\ne\nf"],
        None,
        objects(*(np.arange(n, dtype=np.int64) for n in (2, 1, 3))),
    ),
    "answers": Rows(TEXTS, TEXTS, objects((("a", 0), ("b", 7)), (), (("c", 2),))),
    "texts": Rows(TEXTS, None, objects("one", "two", "")),
    "images": Rows(
        [],
        None,
        np.array([3, 4], np.int64),
        np.random.default_rng(0).random((2, 1, 4, 5), dtype=np.float32),
    ),
}


def same(left, right):
    for field in fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert type(a) is type(b), field.name
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.shape == b.shape, field.name
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
                assert type(x) is type(y)
        else:
            assert a == b


@pytest.mark.parametrize("form", ROWS)
def test_rows_come_back_as_they_were(tmp_path, form):
    write_rows(tmp_path / "deep" / "rows.parquet", ROWS[form])
    back = read_rows(tmp_path / "deep" / "rows.parquet")
    same(ROWS[form], back)
    assert fingerprint(back) == fingerprint(ROWS[form])


@pytest.mark.parametrize("form", ROWS)
def test_another_order_of_rows_has_another_fingerprint(form):
    rows = ROWS[form]
    assert fingerprint(rows.take(range(len(rows))[::-1])) != fingerprint(rows)


def test_a_changed_label_or_text_has_another_fingerprint():
    rows = ROWS["classes"]
    prints = {
        fingerprint(rows),
        fingerprint(replace(rows, labels=np.array([1, 0, 1], np.int64))),
        fingerprint(replace(rows, texts=["a tex", "tzwölf 火", ""])),
        fingerprint(replace(rows, pairs=["", "", ""])),
        fingerprint(rows.take([0, 1])),
    }
    assert len(prints) == 5


def test_a_fingerprint_never_changes_between_versions():
    """A package of today is examined by the library of next year."""
    expected = "64f7a27174a83f61378d3179f2d8ec49471c63e7ce7efec0b7c1f79dc53493f2"
    assert fingerprint(ROWS["classes"]) == expected


def test_damaged_files_are_integrity_errors(tmp_path):
    path = tmp_path / "rows.parquet"
    for content in (b"", b"PAR1 no"):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="holds no readable rows"):
            read_rows(path)
