"""Tables of scores that users have: layouts, scales, and everything that is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from orchestrator.cli import main
from orchestrator.errors import InputError
from orchestrator.selection.matrix.files import read_matrix, write_matrix
from orchestrator.selection.matrix.importing import ImportOptions, import_table
from orchestrator.selection.matrix.performance import COLUMNS, MeasuredCell, PerformanceMatrix

GOOD = """model,dataset,val_epoch1,val_epoch2,test_final
a,x,0.5,0.6,0.61
b,x,0.4,0.7,0.66
c,x,0.2,0.3,0.35
a,y,0.9,0.91,0.9
b,y,0.8,0.95,0.93
c,y,0.7,0.85,0.81
"""


def write(folder, text, name="t.csv"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_long_table_keeps_gaps_with_their_reasons(tmp_path):
    text = GOOD.replace("b,x,0.4,0.7,0.66", "b,x,0.4,nan,0.66").replace("0.81", "")
    matrix = import_table(write(tmp_path, text)).matrix
    assert matrix.missing() == [("c", "y")]
    assert matrix.reasons() == {
        ("b", "x"): "no number in line 3, column 'val_epoch2'",
        ("c", "y"): "no number in line 7, column 'test_final'",
    }
    curves = matrix.history().curves
    np.testing.assert_array_equal(curves[1, 0], [np.nan, np.nan, 0.66])  # its final score stays
    write_matrix(matrix, tmp_path / "m.parquet")
    back = read_matrix(tmp_path / "m.parquet")
    assert back.reasons() == matrix.reasons()
    assert back.sources == matrix.sources
    assert back.sources[0].rows == 6
    assert len(back.sources[0].sha256) == 64


def test_wide_tables_in_both_directions_and_without_names(tmp_path):
    by_model = "Model,x,y\na,0.61,0.9\nb,0.66,0.93\nc,0.35,0.81\n"
    by_dataset = "dataset\ta\tb\tc\nx\t0.61\t0.66\t0.35\ny\t0.9\t0.93\t0.81\n"
    bare = "a\tb\tc\n0.61\t0.66\t0.35\n0.9\t0.93\t0.81\n"
    finals = import_table(write(tmp_path, GOOD)).matrix.final()
    for text, name in ((by_model, "m.csv"), (by_dataset, "d.tsv")):
        pd.testing.assert_frame_equal(
            import_table(write(tmp_path, text, name)).matrix.final(), finals
        )
    with pytest.raises(InputError, match=r"column 'a'.*datasets.txt beside the table"):
        import_table(write(tmp_path, bare, "matrix.txt"))
    write(tmp_path, "x\ny", "datasets.txt")
    matrix = import_table(write(tmp_path, bare, "matrix.txt")).matrix
    pd.testing.assert_frame_equal(matrix.final(), finals)
    assert matrix.stages == 0
    assert matrix.history().curves.shape == (3, 2, 1)
    pd.DataFrame({"model": ["a", "b"], "x": [0.1, None]}).to_parquet(tmp_path / "t.parquet")
    assert import_table(tmp_path / "t.parquet").matrix.missing() == [("b", "x")]


def test_percent_and_error_rates_are_the_same_history(tmp_path):
    table = pd.read_csv(write(tmp_path, GOOD))
    numbers = ["val_epoch1", "val_epoch2", "test_final"]
    histories = []
    for factor, lower in ((1, False), (100, False), (1, True), (100, True)):
        scores = (1 - table[numbers] if lower else table[numbers]) * factor
        file = tmp_path / "scaled.csv"
        table.assign(**scores).to_csv(file, index=False)
        options = ImportOptions(lower_is_better=("all",) if lower else ())
        matrix = import_table(file, options).matrix
        assert {d.scale for d in matrix.datasets.values()} == {
            "percent" if factor == 100 else "fraction"
        }
        histories.append(matrix.history().curves)
    for other in histories[1:]:
        np.testing.assert_array_equal(histories[0], other)  # to the last bit


def test_losses_need_a_scale_and_count_between_the_worst_and_the_best(tmp_path):
    text = "model,x,loss\na,0.5,2.5\nb,0.6,0.5\nc,0.7,1.5\n"
    file = write(tmp_path, text)
    with pytest.raises(InputError, match=r"line 2, column 'loss': 2.5: the scale cannot be told"):
        import_table(file, ImportOptions(lower_is_better=("loss",)))
    options = ImportOptions(scale="fraction,loss=range", lower_is_better=("loss",))
    matrix = import_table(file, options).matrix
    assert matrix.normalized()["loss"].tolist() == [0.0, 1.0, 0.5]
    assert matrix.final()["loss"].tolist() == [2.5, 0.5, 1.5]


BAD = {
    "empty": ("", r"line 1: the file is empty"),
    "header only": ("model,dataset,test_final\n", r"line 2: no rows"),
    "text": (GOOD.replace("0.95", "good"), r"line 6, column 'val_epoch2': 'good' is not a finite"),
    "infinite": (GOOD.replace("0.95", "inf"), r"line 6, column 'val_epoch2': 'inf' is not"),
    "twice": (GOOD + "a,x,0.5,0.6,0.61\n", r"line 8, column 'val_epoch1': model 'a' .* line 2"),
    "no model": (GOOD.replace("b,y", ",y"), r"line 6, column 'model': '' is not a name"),
    "epoch letter": (GOOD.replace("epoch2", "epochB"), r"line 1, column 'val_epochB': val_epoch"),
    "gap": (GOOD.replace("epoch2", "epoch3"), r"line 1, column 'val_epoch3': a gap .* val_epoch2"),
    "column twice": (GOOD.replace("epoch2", "epoch1"), r"line 1, column 'val_epoch1': two columns"),
    "short line": (GOOD.replace("0.3,0.35", "0.3"), r"line 4, column 'val_epoch2': 4 cells"),
    "negative time": (
        "model,dataset,val_epoch1,score,seconds_per_epoch\na,x,0.5,0.6,-7\n",
        r"line 2, column 'seconds_per_epoch': -7 seconds are negative",
    ),
    "no column": ("model\na\n", r"line 1: no column of scores"),
    "column without a name": ("model,x,\na,0.5,0.6\n", r"line 1, column '': a column of scores"),
    "no final": (GOOD.replace("test_final", "final"), r"missing: test_final"),
    "same scores": (
        "model,x,y\na,0.1,0.1\nb,0.2,0.2\nc,0.4,0.4\n",
        r"line 2, column 'y': the data sets 'x' and 'y' hold the same scores \(equal",
    ),
    "correlated": (
        "model,x,y\n" + "".join(f"m{i},0.{i},{0.0 + i / 20}\n" for i in range(1, 8)),
        r"line 2, column 'y': .*correlation 1.0000 over 7 models",
    ),
    "mixed scales": (
        "model,x,y\na,0.1,20\nb,0.2,11\nc,0.4,70\n",
        r"column 'x': 0.4: the scale cannot be told, 'x' looks like fractions and 'y' like percent",
    ),
    "stage gap": (
        "model,dataset,split,stage,value\na,x,validation,1,0.1\na,x,validation,3,0.1\n",
        r"line 3, column 'stage': a gap in the epochs of 'a' on 'x': epoch 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line_with_row_and_column(case, tmp_path, capsys):
    text, message = BAD[case]
    file = write(tmp_path, text)
    with pytest.raises(InputError, match=message):
        import_table(file)
    assert main(["matrix", "import", str(file), "--out", str(tmp_path / "m.parquet")]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImportOptions(lower_is_better=("z",)), "--lower-is-better z: neither"),
        (ImportOptions(ignore=("z",)), "--ignore z: no such column"),
        (ImportOptions(scale="permille"), "'permille' is not a scale"),
        (ImportOptions(scale="z=percent"), "'z' is not a data set"),
        (ImportOptions(scale="percent,fraction"), "'percent,fraction' names two scales"),
        (ImportOptions(scale="x=percent,x=range"), "names two scales for the same"),
        (ImportOptions(scale="fraction,x=percent", lower_is_better=("y",)), ""),
    ],
)
def test_wrong_options(options, message, tmp_path):
    file = write(tmp_path, GOOD)
    if message:
        with pytest.raises(InputError, match=message):
            import_table(file, options)
    else:
        assert import_table(file, options).matrix.datasets["x"].scale == "percent"


def test_scores_that_do_not_fit_their_scale(tmp_path):
    file = write(tmp_path, GOOD.replace("0.95", "95"))
    with pytest.raises(InputError, match=r"line 6, column 'val_epoch2': 95 on 'y' is not a fract"):
        import_table(file, ImportOptions(scale="fraction"))


def test_final_scores_of_a_leaderboard_make_a_prior(tmp_path):
    rng = np.random.default_rng(0)
    scores = 0.6 + rng.normal(0, 0.05, (8, 1)) + rng.normal(0, 0.01, (8, 6))
    table = pd.DataFrame(scores, columns=[f"d{i}" for i in range(6)])
    table.insert(0, "model", [f"m{i}" for i in range(8)])
    table.to_csv(tmp_path / "board.csv", index=False)
    from orchestrator.selection.policies.base import choose_policy

    history = read_matrix(tmp_path / "board.csv").history()
    decider = choose_policy("fast", history)
    assert decider.name == "sh"  # no curve tells what an epoch says
    prior = decider.predictor.prior()
    assert sorted(prior, key=prior.get) == sorted(
        prior, key=lambda model: scores[int(model[1:])].mean()
    )


def test_old_parquet_files_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    matrix = import_table(write(tmp_path, GOOD)).matrix
    old = pa.Table.from_pandas(matrix.cells[list(COLUMNS)], preserve_index=False)
    facts = {
        "schema_version": 1,
        "models": {name: {} for name in matrix.models},
        "datasets": {name: {"metric": "accuracy"} for name in matrix.datasets},
    }
    key = {b"orchestrator.performance_matrix": json.dumps(facts).encode()}
    pq.write_table(old.replace_schema_metadata(key), tmp_path / "old.parquet")
    back = read_matrix(tmp_path / "old.parquet")
    np.testing.assert_array_equal(back.history().curves, matrix.history().curves)
    assert back.reasons() == {}


def test_seconds_and_reasons_of_failed_cells_are_kept(tmp_path):
    matrix = PerformanceMatrix().add_model("a").add_model("b").add_dataset("x")
    matrix = matrix.add_cells(
        [
            MeasuredCell("a", "x", [0.1, 0.2], 0.3, [4.0, 3.5], 2.0),
            MeasuredCell("b", "x", [0.1, None], None, [5.0], reason="out of memory"),
        ]
    )
    write_matrix(matrix, tmp_path / "m.parquet")
    cells = read_matrix(tmp_path / "m.parquet").cells.set_index(["model", "stage"])
    assert cells.loc[("a", 2), "seconds"] == 3.5
    assert cells.loc[("a", 0), "startup_s"] == 2.0
    assert cells.loc[("b", 0), "reason"] == "out of memory"
    with pytest.raises(InputError, match="without a reason"):
        matrix.add_cells([MeasuredCell("a", "x", [None], 0.1)])


def test_import_show_and_export(tmp_path, capsys):
    file, out = write(tmp_path, GOOD.replace("0.81", "-")), tmp_path / "m.parquet"
    assert main(["matrix", "import", str(file), "--out", str(out)]) == 0
    assert "incomplete: c on y: no number in line 7" in capsys.readouterr().out
    assert main(["matrix", "import", str(file), "--out", str(out)]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["matrix", "show", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["epochs"] == 2
    assert told["gaps"][0]["model"] == "c"
    assert told["sources"][0]["options"] == {"layout": "auto", "scale": "auto"}
    for name in ("long.csv", "long.tsv"):
        assert main(["matrix", "export", str(out), "--out", str(tmp_path / name)]) == 0
        again, first = read_matrix(tmp_path / name), read_matrix(out)
        np.testing.assert_array_equal(again.history().curves, first.history().curves)
    less = tmp_path / "less.parquet"
    assert main(["matrix", "export", str(out), "--without", "y", "--out", str(less)]) == 0
    assert read_matrix(less).dataset_names == ("x",)
    assert main(["matrix", "export", str(out), "--without", "z", "--out", str(less)]) == 2
    assert "'z' is not a data set" in capsys.readouterr().err


def test_export_says_what_a_table_cannot_hold_and_refuses_what_it_would_lose(tmp_path, capsys):
    file, out = write(tmp_path, GOOD), tmp_path / "m.parquet"
    lower = ["--lower-is-better", "y", "--scale", "x=range"]
    assert main(["matrix", "import", str(file), "--out", str(out), *lower]) == 0
    assert main(["matrix", "export", str(out), "--out", str(tmp_path / "l.csv")]) == 0
    assert "import it with --lower-is-better y --scale x=range\n" in capsys.readouterr().out
    before = file.read_text()
    for arguments, message in (
        ([str(file), "--out", str(file)], "is the matrix that is exported"),
        ([str(out), "--out", str(tmp_path / "e.csv"), "--without", "x,y"], "no data set of"),
        ([str(out), "--out", str(tmp_path / "e.parquet"), "--layout", "wide"], "--layout: a"),
    ):
        assert main(["matrix", "export", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert file.read_text() == before
    twice = ["--rows", "x=builtin:digits,x=builtin:digits", "--replace"]
    assert main(["matrix", "import", str(file), "--out", str(out), *twice]) == 2
    assert "names a data set twice" in capsys.readouterr().err


def test_columns_that_are_not_read_are_named(tmp_path, caplog):
    text = "model,dataset,score,seconds_per_epoch,note\na,x,0.5,3,good\n"
    file = write(tmp_path, text)
    assert import_table(file).ignored == ("seconds_per_epoch", "note")  # seconds of no epoch
    read_matrix(file)
    assert "columns that were not read: seconds_per_epoch, note" in caplog.text


def test_rows_behind_an_imported_column_are_guarded(tmp_path, capsys):
    from orchestrator.data.sources.opening import load_task
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.selection.candidates import dataset_facts

    file, out = write(tmp_path, GOOD), tmp_path / "m.parquet"
    rows = "x=builtin:digits"
    assert main(["matrix", "import", str(file), "--out", str(out), "--rows", rows]) == 0
    assert "x: accuracy, higher is better, fraction, 3 models, 2 epochs, rows known" in (
        capsys.readouterr().out
    )
    target = dataset_facts(load_task(DatasetSpec(source="builtin:digits")), "")
    with pytest.raises(InputError, match=r"'x' \(identical rows"):
        read_matrix(out).guard("my own digits", target)


def test_the_published_tables_load_as_they_are(shared):
    for folder, models, datasets in (("nlp", 39, 21), ("cv", 30, 6)):
        matrix = import_table(shared / folder / "matrix.txt").matrix
        assert matrix.final().shape == (models, datasets)
        assert not matrix.missing()
    curves = import_table(shared / "olml_demo" / "nlp_convergence_curves.csv")
    assert curves.matrix.stages == 5
    assert len(curves.matrix.missing()) == 2
    assert curves.ignored == ("source_dir", "in_paper_pool")
