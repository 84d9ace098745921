"""Bad input of finetune, evaluate and predict: one error each, exit code 2, nothing written."""

import json

import pytest

from orchestrator.cli import main
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny

ROWS = [{"text": f"{SENTENCES[i % 6]} {i}", "label": LABELS[i % 3]} for i in range(60)]
HEADER = "text,label\n"
CSV = HEADER + "".join(f"é{i},{LABELS[i % 3]}\n" for i in range(30))


def every_fourth(**cells):
    return [row if i % 4 else {**row, **cells} for i, row in enumerate(ROWS)]


FILES = {
    "rows.jsonl": ROWS,
    "odd.jsonl": [{"txt": row["text"], "labl": row["label"]} for row in ROWS],
    "held/train.jsonl": ROWS[:40],
    "held/test.jsonl": [{**row, "label": "new"} for row in ROWS[40:]],
    "one.jsonl": [{**row, "label": "array"} for row in ROWS],
    "empty.jsonl": every_fourth(text="  "),
    "nan.jsonl": every_fourth(label=float("nan")),
    "missing.jsonl": every_fourth(label=None),
    "numbers.jsonl": [
        {"text": row["text"], "score": i + 0.5 if i % 4 else float("nan")}
        for i, row in enumerate(ROWS)
    ],
    "copies/train.jsonl": ROWS,
    "copies/test.jsonl": ROWS,
    "pairs.jsonl": [{"text_a": r["text"], "text_b": "b", "score": 0.5} for r in ROWS],
}
SWAPPED = ["data.text_column=label", "data.label_column=text"]
UNKNOWN = "no column 'txt' for the text. Did you mean 'text'? Columns: text, label."
RENAMED = "Name one with text_column. Is it 'txt'? Columns: txt, labl."
EMPTY = "15 of 60 rows cannot be used. Left out: 15 × empty text."
CASES = {
    "an unknown column": (["rows.jsonl", "data.text_column=txt"], UNKNOWN, UNKNOWN),
    "no usual column": (["odd.jsonl"], RENAMED, RENAMED),
    "a label that only test has": (
        ["held"], "label 'new' occurs in test but not in train. Labels of train: array",
        "label 'new' occurs in test",
    ),
    "one class": (["one.jsonl"], "1 class ('array'); at least two needed", None),
    "empty texts": (["empty.jsonl"], EMPTY, EMPTY),
    "labels that are NaN": (["nan.jsonl"], "15 of 60 rows cannot", "15 of 60 rows cannot"),
    "missing labels": (["missing.jsonl"], "15 × label missing", "15 × label missing"),
    "numbers that are NaN": (["numbers.jsonl"], "15 × label is not finite", "no column called"),
    "swapped columns": (
        ["rows.jsonl", *SWAPPED], "Swap text_column and label_column",
        "Swap data.text_column and data.label_column",
    ),
    "mixed encodings": (["mixed"], "b.csv, line 2, byte 11: 0xe9 is not UTF-8", "is not UTF-8"),
    "UTF-16": (["wide.csv"], "iconv -f utf-16 -t utf-8", "iconv -f utf-16 -t utf-8"),
    "UTF-16 without its mark": (["wide.tsv"], "iconv -f utf-16le", "iconv -f utf-16le"),
    "lines of old Macs": (["mac.csv"], "tr '\\r' '\\n' < mac.csv", "lines end with CR alone"),
    "splits of the same rows": (
        ["copies"], "Left out: 60 × train row also held out", "60 × train row also held out",
    ),
    "what two kinds read": (["pairs.jsonl"], "task=similarity", None),
}  # fmt: skip
PREDICT = {
    "an unknown column": (["rows.jsonl", "text_column=txt"], "Did you mean 'text'? Columns: text"),
    "no usual column": (["odd.jsonl"], "Name one with text_column. Columns: txt, labl."),
    "mixed encodings": (["mixed"], "b.csv, line 2, byte 11: 0xe9 is not UTF-8"),
    "UTF-16": (["wide.csv"], "iconv -f utf-16 -t utf-8"),
    "UTF-16 without its mark": (["wide.tsv"], "iconv -f utf-16le"),
    "lines of old Macs": (["mac.csv"], "tr '\\r' '\\n' < mac.csv"),
    "a missing file": (["rowz.jsonl"], "does not exist. Did you mean 'rows.jsonl'?"),
    "a column of numbers": (["numbers.jsonl", "text_column=score"], "holds values of type float"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commit_tiny(Zoo(tmp_path / "zoo"))
    for name, rows in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.csv").write_text(CSV)
    (tmp_path / "mixed/b.csv").write_bytes(CSV.encode("latin1"))
    (tmp_path / "wide.csv").write_bytes(CSV.encode("utf-16"))
    (tmp_path / "wide.tsv").write_bytes(CSV.replace(",", "\t").encode("utf-16-le"))
    (tmp_path / "mac.csv").write_bytes(CSV.replace("\n", "\r").encode())
    return tmp_path


def refused(place, capsys, *command):
    """Return the error of a command that is refused, having written nothing."""
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    code = main([*command])
    shown = capsys.readouterr()
    assert code == 2, shown.err
    assert "Traceback" not in shown.err
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()} == before
    assert not (place / "runs").exists()
    return shown.err


@pytest.mark.parametrize(("arguments", "message", "_"), CASES.values(), ids=CASES)
def test_finetune_refuses(place, capsys, arguments, message, _):
    source, *more = arguments
    command = ["finetune", "package=tiny", "output=x", f"data.source=files:{source}", *more]
    assert message in refused(place, capsys, *command)


MEASURED = {name: case for name, case in CASES.items() if case[2] is not None}


WITHOUT_EFFECT = {
    "a new head's layers": (
        "new", ["train.exportable=true", "train.pooling=max"], "the class of transformers decides",
    ),
    "the package's own head": ("topic", ["train.exportable=true"], "(cls) keeps its layers"),
    "its pooling": ("topic", ["train.pooling=max"], "the package's head 'topic' has 'mean'"),
    "its tanh": ("topic", ["train.hidden=true"], "the package's head 'topic' has False"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("head", "settings", "message"), WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT
)
def test_settings_of_no_effect_are_refused(place, capsys, head, settings, message):
    rows = [{"text": f"{SENTENCES[i % 6]} {i}", "label": LABELS[i % 3]} for i in range(90)]
    (place / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["finetune", "package=tiny", "output=x", "data.source=files:own.jsonl"]
    assert message in refused(place, capsys, *command, f"head={head}", *settings)


@pytest.mark.parametrize(("arguments", "_", "message"), MEASURED.values(), ids=MEASURED)
def test_evaluate_refuses(place, capsys, arguments, _, message):
    source, *more = arguments
    command = ["evaluate", "package=tiny", f"data.source=files:{source}", *more]
    assert message in refused(place, capsys, *command)


@pytest.mark.parametrize(("arguments", "message"), PREDICT.values(), ids=PREDICT)
def test_predict_refuses(place, capsys, arguments, message):
    source, *more = arguments
    command = ["predict", "package=tiny", f"input={source}", "output=out", *more]
    assert message in refused(place, capsys, *command)
    assert not (place / "out").exists()


@pytest.mark.parametrize("verb", ["finetune", "evaluate"])
def test_a_path_without_its_scheme_is_guessed(place, capsys, verb):
    output = ["output=x"] if verb == "finetune" else []
    error = refused(place, capsys, verb, "package=tiny", *output, "data.source=rows.jsonl")
    assert "Did you mean 'files:rows.jsonl'?" in error


def test_a_cell_that_one_row_lacks_is_allowed_when_asked_for(place, capsys):
    source = ["data.source=files:missing.jsonl", "data.max_bad_share=0.3"]
    assert main(["finetune", "--check", "package=tiny", "output=x", *source]) == 0
    assert "left out: 15 × label missing" in capsys.readouterr().out
    assert main(["evaluate", "--check", "package=tiny", *source]) == 0


def test_rows_in_two_splits_are_counted_and_shown(place, capsys, caplog):
    (place / "copies/test.jsonl").write_text("\n".join(map(json.dumps, ROWS[:9])))
    assert (
        main(["finetune", "--check", "package=tiny", "output=x", "data.source=files:copies"]) == 0
    )
    assert "left out: 9 × train row also held out" in capsys.readouterr().out
    assert ROWS[0]["text"][:40] in caplog.text


def test_a_class_that_a_split_lacks_is_shown(place, capsys):
    (place / "held/test.jsonl").write_text(
        "\n".join(json.dumps(r) for r in ROWS[40:] if r["label"] != "array")
    )
    assert main(["finetune", "--check", "package=tiny", "output=x", "data.source=files:held"]) == 0
    assert "test has no row of array" in capsys.readouterr().out


HALF = [*ROWS[:40], {"text": "cut in two \ud83d", "label": "array"}]


@pytest.mark.parametrize("verb", ["finetune", "evaluate", "predict"])
def test_half_of_a_character_ends_no_job(place, capsys, caplog, verb):
    (place / "half.jsonl").write_text("\n".join(map(json.dumps, HALF)))
    source = ["input=half.jsonl"] if verb == "predict" else ["data.source=files:half.jsonl"]
    output = [] if verb == "evaluate" else ["output=x"]
    assert main([verb, "--check", "package=tiny", *output, *source]) == 0
    note = "1 × row with half of a character, which became U+FFFD"
    assert note in capsys.readouterr().out + caplog.text or verb == "predict"


def test_labels_that_are_read_in_another_way_are_said(place, capsys, caplog):
    rows = [{**row, "label": f"{i % 2}.0"} for i, row in enumerate(ROWS)]
    rows += [{**rows[0], "label": "1.0"}]
    (place / "floats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = "data.source=files:floats.jsonl"
    assert main(["finetune", "--check", "package=tiny", "output=x", source]) == 0
    shown = capsys.readouterr().out
    assert "labels such as 0.0 were read as whole numbers (0)" in shown
    assert "1 × text that was read before with another label (conflicting labels)" in shown
    names = [
        {**row, "label": ["array,frame", "array", "frame"][i % 3]} for i, row in enumerate(ROWS)
    ]
    (place / "names.jsonl").write_text("\n".join(map(json.dumps, names)))
    source = "data.source=files:names.jsonl"
    assert main(["finetune", "--check", "package=tiny", "output=x", source]) == 0
    assert "'array,frame' look like lists" in capsys.readouterr().out
    several = ["finetune", "--check", "package=tiny", "output=x", source, "task=multilabel"]
    assert main(several) == 0
    assert "labels were split at ','" in capsys.readouterr().out
    caplog.clear()
    floats = [{**row, "label": float(i % 2)} for i, row in enumerate(ROWS)]
    (place / "floats.jsonl").write_text("\n".join(map(json.dumps, floats)))
    error = "label '0' is not a label of task"
    assert main(["evaluate", "--check", "package=tiny", "data.source=files:floats.jsonl"]) == 2
    assert error in capsys.readouterr().err


def test_unknown_tokens_are_said(place, capsys):
    known = [
        {**row, "text": f"{SENTENCES[i % 6]} {SENTENCES[i % 5]}"} for i, row in enumerate(ROWS)
    ]
    for text, said in ((" 漢字漢字", True), ("", False)):
        rows = [{**row, "text": row["text"] + text} for row in known]
        (place / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
        source = ["data.source=files:words.jsonl", "data.max_bad_share=1"]
        assert main(["finetune", "--check", "package=tiny", "output=x", *source]) == 0
        assert ("of the tokens are [UNK]" in capsys.readouterr().out) == said
