import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import InputError, IntegrityError
from orchestrator.selection.matrix.facts import DatasetFacts, ModelFacts, is_tagged, sketch_rows
from orchestrator.selection.matrix.files import read_matrix, write_matrix
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.matrix.table import MATRIX_KEY


@pytest.fixture
def matrix():
    empty = PerformanceMatrix()
    facts = ModelFacts(package="bert/v0001", manifest_sha256="ab" * 32, trained_on=("imdb",))
    grown = empty.add_model("bert", facts).add_model("lstm").add_dataset("sst")
    grown = grown.add_dataset("loss", DatasetFacts(metric="loss", higher_is_better=False))
    return grown.add_cells(
        [
            ("bert", "sst", [0.6, 0.7], 0.65),
            ("lstm", "sst", [0.5, 0.6], 0.55),
            ("bert", "loss", [2.0, 1.5], 1.6),
        ]
    )


def test_wide_views_and_missing_cells(matrix):
    assert matrix.final().loc["lstm", "sst"] == 0.55
    assert matrix.missing() == [("lstm", "loss")]
    history = matrix.history()
    assert history.models == ("bert", "lstm")
    assert history.datasets == ("loss", "sst")
    np.testing.assert_allclose(history.curves[0, 1], [0.6, 0.7, 0.65])
    np.testing.assert_allclose(history.curves[0, 0], [-1.0, -0.5, -0.6])  # lower is better: 1 - x
    assert np.isnan(history.curves[1, 0]).all()


def test_history_of_fewer_stages_keeps_the_final_score(matrix):
    np.testing.assert_allclose(matrix.history(1).curves[0, 1], [0.6, 0.65])
    with pytest.raises(InputError, match="3 validation stages requested"):
        matrix.history(3)


def test_a_cell_is_replaced_and_the_old_matrix_is_not_changed(matrix):
    again = matrix.add_cells([("bert", "sst", [0.1, 0.2], 0.3)])
    assert again.final().loc["bert", "sst"] == 0.3
    assert matrix.final().loc["bert", "sst"] == 0.65
    assert len(again.cells) == len(matrix.cells)


def test_rows_of_imported_tables_serve_packages_of_that_name(matrix):
    found = matrix.with_references(["lstm/v0001", "lstm/v0003", "bert/v0002", "gru/v0001"])
    assert found.model_names == ("bert", "lstm/v0001", "lstm/v0003")  # bert was benchmarked
    assert found.final()["sst"].tolist() == [0.65, 0.55, 0.55]
    assert matrix.with_references(["gru/v0001"]) is matrix


def test_round_trip_through_parquet(matrix, tmp_path):
    write_matrix(matrix, tmp_path / "m.parquet")
    back = read_matrix(tmp_path / "m.parquet")
    assert back.models == matrix.models
    assert back.datasets == matrix.datasets
    pd.testing.assert_frame_equal(back.final(), matrix.final())


def test_bad_files_are_refused(tmp_path, matrix):
    with pytest.raises(InputError, match="no file"):
        read_matrix(tmp_path / "missing.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"not parquet")
    with pytest.raises(IntegrityError, match="not readable"):
        read_matrix(tmp_path / "junk.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(IntegrityError, match="not a performance matrix"):
        read_matrix(tmp_path / "other.parquet")
    write_matrix(matrix, tmp_path / "good.parquet")
    good = pq.read_table(tmp_path / "good.parquet")
    facts = json.loads(good.schema.metadata[MATRIX_KEY])
    for text, message in (
        ("{", "damaged metadata: JSONDecodeError"),
        ("[1]", "damaged metadata: TypeError"),
        ("{}", "damaged metadata: KeyError"),
        (json.dumps({**facts, "models": {}}), "damaged: it has nothing about 'bert'"),
    ):
        pq.write_table(good.replace_schema_metadata({MATRIX_KEY: text}), tmp_path / "b.parquet")
        with pytest.raises(IntegrityError, match=message):
            read_matrix(tmp_path / "b.parquet")
    place = good.column_names.index("value")
    texts = good.set_column(place, "value", [["x"] * good.num_rows])
    pq.write_table(texts.replace_schema_metadata(good.schema.metadata), tmp_path / "b.parquet")
    with pytest.raises(IntegrityError, match="values that are not numbers"):
        read_matrix(tmp_path / "b.parquet")


def test_bad_cells_are_refused(matrix):
    with pytest.raises(InputError, match="unknown; add it first"):
        matrix.add_cells([("gru", "sst", [0.1], 0.1)])
    with pytest.raises(InputError, match="not finite"):
        matrix.add_cells([("bert", "sst", [float("nan")], 0.1)])


def test_leak_guard_by_name_digest_and_rows(matrix):
    rows = [(f"text {i}", "yes" if i % 2 else "no") for i in range(400)]
    facts = DatasetFacts(digest="d1", sketch=sketch_rows(rows))
    known = matrix.add_dataset("reviews", facts)
    for name in ("SST", "builtin:sst"):
        with pytest.raises(InputError, match="the same name"):
            known.guard(name)
    with pytest.raises(InputError, match="identical rows"):
        known.guard("other", DatasetFacts(digest="d1"))
    most = DatasetFacts(digest="d2", sketch=sketch_rows(rows[40:]))
    with pytest.raises(InputError, match="labelled rows are the same"):
        known.guard("other", most)
    relabelled = [(text, label + "?") for text, label in rows]
    known.guard("other", DatasetFacts(digest="d3", sketch=sketch_rows(relabelled)))
    known.without(["reviews"]).guard("other", most)


def test_tags_are_whole_words_or_declarations(matrix):
    assert is_tagged("someone--bert_ft_qqp-7", (), "qqp")
    assert not is_tagged("bert_ft_qqpx-7", (), "qqp")
    assert is_tagged("plain", ("builtin:Pydoc/kind",), "pydoc-kind")
    assert matrix.add_dataset("imdb").history().tagged.tolist() == [
        [True, False, False],
        [False] * 3,
    ]


def test_history_can_be_narrowed_and_widened(history):
    wider = history.with_models(["m3", "new"])
    np.testing.assert_array_equal(wider.curves[0], history.curves[3])
    assert np.isnan(wider.curves[1]).all()
    assert history.without_dataset("d2").datasets == ("d0", "d1", "d3", "d4", "d5")
