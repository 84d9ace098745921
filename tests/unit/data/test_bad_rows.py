"""Rows and files that are not as they should be: one bad row ends no job, all is said."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.corpora.corpus import prepare_corpus
from orchestrator.data.corpora.labelled_corpus import prepare_labelled
from orchestrator.data.in_memory import stored
from orchestrator.data.rows.checks import check_data
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.sources.lines import REPAIRED, repaired, well_formed
from orchestrator.data.sources.opening import list_entries, load_task, open_documents
from orchestrator.data.spec import CorpusConfig, DatasetSpec
from orchestrator.errors import InputError

HALF = "cut in two \ud83d"
WHOLE = "cut in two \ufffd"
NOTE = f"1 × {REPAIRED}."
CLASSES = [{"text": f"text number {i}", "label": "xy"[i % 2]} for i in range(40)]


def spec(path, **changes):
    return DatasetSpec(source=f"files:{path}", **changes)


def write(path, rows):
    """Write rows; JSON escapes half of a pair, Arrow and CSV get its three bytes."""
    if path.suffix in (".jsonl", ".json"):
        text = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
        path.write_text(text)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    elif path.suffix == ".txt":
        text = "\n".join(row["text"] for row in rows)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    else:
        columns = {
            name: pa.array([row[name].encode("utf-8", "surrogatepass") for row in rows]).view(
                pa.string()
            )
            for name in rows[0]
        }
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet"])
def test_half_of_a_character_is_repaired_in_labelled_rows(tmp_path, name, caplog):
    rows = [*CLASSES, {"text": HALF, "label": "x"}]
    data = load_task(spec(write(tmp_path / name, rows)))  # 1 of 41 is above max_bad_share
    texts = [text for split in (data.train, data.validation, data.test) for text in split.texts]
    assert WHOLE in texts
    assert len(texts) == 41
    assert data.rejected == {}
    assert data.notes == (NOTE,)
    assert NOTE in caplog.text
    assert NOTE in check_data(data).warnings()


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x.txt"])
def test_half_of_a_character_is_repaired_in_a_corpus(tmp_path, name, caplog):
    path = write(tmp_path / name, [*CLASSES, {"text": HALF, "label": "x"}])
    source = open_documents(spec(path))
    assert list(source) == [row["text"] for row in CLASSES] + [WHOLE]
    assert source.rejected == {REPAIRED: 1}
    corpus = prepare_corpus(CorpusConfig(data=spec(path), block_size=8), tmp_path)
    assert corpus.documents == 41
    assert corpus.rejected == {}
    assert corpus.manifest.repaired == 1
    assert f"1 × {REPAIRED}" in caplog.text


FORMS_WITH_HALF = {
    "tags": {"tokens": ["a", HALF], "tags": ["O", "B-X"]},
    "multilabel": {"text": HALF, "label": ["x", HALF]},
    "regression": {"text": HALF, "label": 0.5},
    "text": {"prompt": "say", "answer": HALF},
    "similarity": {"text_a": "a", "text_b": HALF, "score": 1},
    "choice": {"question": "q", "choices": ["a", HALF], "label": 1},
    "answers": {"question": "q", "context": f"so {HALF}", "answer": HALF},
}


@pytest.mark.parametrize("form", FORMS_WITH_HALF)
def test_half_of_a_character_is_repaired_in_every_form(tmp_path, form):
    row = FORMS_WITH_HALF[form]
    rows = [
        {name: f"{cell} {i}" if cell in ("a", "q", "say") else cell for name, cell in row.items()}
        | ({"context": f"so {HALF} {i}"} if "context" in row else {})
        | ({"tokens": [f"a{i}", HALF]} if "tokens" in row else {})
        | ({"text": f"{HALF} {i}"} if "text" in row else {})
        for i in range(9)
    ]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)), form=FORMS[form])
    assert data.notes == (f"9 × {REPAIRED}.",)
    shown = str([data.train.texts, data.train.pairs, data.train.choices, data.label_names])
    shown += str(data.train.labels.tolist())
    assert "\ufffd" in shown
    shown.encode()


def test_half_of_a_character_is_repaired_in_examples_and_prepared_rows(tmp_path):
    pairs = [{"text_a": f"one {i}", "text_b": f"two {i}"} for i in range(9)]
    path = write(tmp_path / "pairs.jsonl", [*pairs, {"text_a": HALF, "text_b": "two"}])
    entries = list_entries(spec(path), ("text", "pair"))
    assert entries.found[-1].text == WHOLE
    assert entries.rejected == {REPAIRED: 1}
    rows = write(tmp_path / "rows.jsonl", [*CLASSES, {"text": HALF, "label": "x"}])
    corpus = prepare_labelled(CorpusConfig(data=spec(rows)), tmp_path)
    assert corpus.manifest.notes == (NOTE,)


def test_tables_in_memory_are_repaired(tmp_path, caplog):
    rows = [*CLASSES, {"text": HALF, "label": "x"}]
    texts = pd.Series([row["text"] for row in rows], dtype=object)
    for table in (rows, pd.DataFrame({"text": texts, "label": [r["label"] for r in rows]})):
        caplog.clear()
        data = load_task(DatasetSpec(source=stored(table, tmp_path)))
        assert WHOLE in data.train.texts + data.validation.texts + data.test.texts
        assert f"1 × {REPAIRED}" in caplog.text


def test_pairs_of_halves_are_joined():
    assert well_formed("\ud83d\ude00 \ude00\ud83d") == "😀 \ufffd\ufffd"
    assert repaired({"a": "é😀"}, {}) == {"a": "é😀"}


def test_a_text_of_parquet_that_is_not_utf8_is_left_out(tmp_path):
    texts = pa.array([*(row["text"].encode() for row in CLASSES), b"caf\xe9"]).view(pa.string())
    labels, pixels = ["x", "y"] * 20 + ["x"], [b"\xff"] * 41  # bytes that are no text stay
    pq.write_table(
        pa.table({"text": texts, "label": labels, "image": pixels}), tmp_path / "x.parquet"
    )
    data = load_task(spec(tmp_path / "x.parquet", max_bad_share=0.1))
    assert data.rejected == {"text is not UTF-8": 1}
    source = open_documents(spec(tmp_path / "x.parquet"))
    assert len(list(source)) == 40
    assert source.rejected == {"text is not UTF-8": 1}
    with pytest.raises(InputError, match=r"1 of 41 rows cannot be used\. Left out: 1 × text"):
        load_task(spec(tmp_path / "x.parquet"))


def read(source):
    """Read a table as labelled rows, and plain text as a corpus."""
    plain = source.source.endswith(".txt")
    return list(open_documents(source)) if plain else load_task(source)


CODINGS = {"utf-16": "utf-16", "utf-16-le": "utf-16le", "utf-16-be": "utf-16be", "utf-32": "utf-32"}


@pytest.mark.parametrize(
    "text", ["text,label\nplain letters,x\n", "text,label\n漢字漢字漢字,x\nはい,y\n"]
)
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.txt", "x.json", "x.csv.gz"])
def test_utf16_gets_the_right_advice(tmp_path, name, coding, text):
    raw = text.encode(coding)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.raises(InputError, match=f"not UTF-8.*iconv -f {CODINGS[coding]} -t utf-8 {name}"):
        read(spec(tmp_path / name))


def test_other_bytes_still_get_latin1(tmp_path):
    (tmp_path / "x.csv").write_bytes("text,label\ncafé,x\n".encode("latin1"))
    with pytest.raises(InputError, match=r"line 2, byte 14: 0xe9 is not UTF-8.*iconv -f latin1"):
        load_task(spec(tmp_path / "x.csv"))
    (tmp_path / "nul.csv").write_text(
        "text,label\n" + "".join(f"a\0{i},{i % 2}\n" for i in range(9))
    )
    assert load_task(spec(tmp_path / "nul.csv")).rejected == {}


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.txt", "x.conll"])
def test_lines_that_end_with_cr_alone_get_the_right_advice(tmp_path, name):
    (tmp_path / name).write_bytes(b"\r".join([b"text,label", *(b"a%d,x" % i for i in range(999))]))
    with pytest.raises(InputError, match=r"its lines end with CR alone.*tr '\\r' '\\n' < x"):
        load_task(spec(tmp_path / name))
    with pytest.raises(InputError, match="CR alone"):
        list(open_documents(spec(tmp_path / name)))
    (tmp_path / name).write_bytes(b"one line\r")
    list(open_documents(spec(tmp_path / name)))


LISTS = ["x,y", "x", "y , z", "z", "", "x,z"]


@pytest.mark.parametrize("mark", [",", ";"])
def test_names_with_commas_between_them_are_recognized_and_said(tmp_path, mark, caplog):
    rows = [{"text": f"text {i}", "label": LISTS[i % 6].replace(",", mark)} for i in range(60)]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)), form=FORMS["multilabel"])
    assert data.label_names == ("x", "y", "z")
    names = {data.train.texts[i]: data.train.labels[i].tolist() for i in range(len(data.train))}
    expected = {"0": [1, 1, 0], "1": [1, 0, 0], "2": [0, 1, 1], "4": [0, 0, 0]}
    for text, labels in names.items():
        wanted = expected.get(str(int(text.split()[1]) % 6))
        assert wanted is None or labels == wanted
    assert data.notes == (
        f"labels were split at {mark!r}: 'x{mark}y' is 'x', 'y'. Where {mark!r} belongs to a name, "
        "put | between names instead.",
    )
    assert data.notes[0] in caplog.text


def test_lists_as_python_writes_them_are_split(tmp_path):
    rows = [{"text": f"text {i}", "label": str(["x", "y z"][: 1 + i % 2])} for i in range(60)]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)), form=FORMS["multilabel"])
    assert data.label_names == ("x", "y z")
    assert "labels were split at ','" in data.notes[0]


@pytest.mark.parametrize("labels", [
    ["Washington, D.C.", "Paris"], ["x|y, z", "x"], [["x, y"], ["x", "z"]],
])  # fmt: skip
def test_a_comma_that_belongs_to_a_name_stays(tmp_path, labels):
    rows = [{"text": f"text {i}", "label": labels[i % 2]} for i in range(60)]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)), form=FORMS["multilabel"])
    assert any(", " in name for name in data.label_names)
    assert data.notes == ()


def test_classes_that_look_like_lists_are_said(tmp_path):
    rows = [{"text": f"text {i}", "label": LISTS[i % 4]} for i in range(80)]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)))
    assert data.label_names == ("x", "x,y", "y , z", "z")
    (note,) = data.notes
    assert note.startswith("labels such as 'x,y' look like lists, and each is one class here.")
    assert "multilabel" in note
    towns = [{"text": f"text {i}", "label": ["Paris, France", "Rome"][i % 2]} for i in range(80)]
    assert load_task(spec(write(tmp_path / "t.jsonl", towns))).notes == ()


def test_the_same_text_with_other_labels_is_a_conflict(tmp_path, caplog):
    rows = [*CLASSES, *CLASSES[:3], *({**row, "label": "y"} for row in CLASSES[:6])]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)))
    conflict = "text that was read before with another label (conflicting labels)"
    assert data.rejected == {"repeated": 3 + 3, conflict: 3}
    assert data.notes == (f"3 × {conflict}: 'text number 0' (x and y).",)
    assert data.notes[0] in caplog.text
    split = tmp_path / "splits"
    split.mkdir()
    write(split / "train.jsonl", rows[:40])
    write(split / "test.jsonl", [*rows[20:30], {**CLASSES[0], "label": "y"}])
    data = load_task(spec(split))
    assert data.rejected == {"train row also held out": 11}
    assert data.notes[0].startswith("1 × train row also held out with another label: 'text number")
    assert "(y and x)" in data.notes[0]


@pytest.mark.parametrize("form", ["tags", "multilabel", "regression", "similarity"])
def test_conflicts_are_found_in_every_form(tmp_path, form):
    labels = {"tags": [["O", "B-X"], ["B-X", "O"]], "multilabel": [["a"], ["a", "b"]]}
    first, second = labels.get(form, [0.25, 0.75])
    names = ("text_a", "text_b", "score") if form == "similarity" else ("text", "x", "label")
    rows = [
        dict(zip(names, (f"word{i % 20} two", "b", first if i < 21 else second), strict=True))
        for i in range(24)
    ]
    data = load_task(spec(write(tmp_path / "x.jsonl", rows)), form=FORMS[form])
    assert data.rejected["text that was read before with another label (conflicting labels)"] == 3
    assert data.rejected["repeated"] == 1


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_whole_numbers_as_floats_are_classes(tmp_path, name):
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(60)], "label": [0.0, 1.0, 2.0] * 20})
    frame.loc[59, "label"] = None
    path = tmp_path / name
    if name == "x.jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False) if name == "x.csv" else frame.to_parquet(path)
    data = load_task(spec(path, max_bad_share=0.1))
    assert data.label_names == ("0", "1", "2")
    assert data.rejected == {"label missing": 1}
    assert np.bincount(data.train.labels).tolist()[0] == 14
    assert data.notes == ("labels such as 0.0 were read as whole numbers (0).",)


def test_other_floats_are_no_classes(tmp_path):
    rows = [{"text": f"text {i}", "label": i / 2} for i in range(60)]
    with pytest.raises(InputError, match="30 × label is not a word or whole number"):
        load_task(spec(write(tmp_path / "x.jsonl", rows)))
    versions = [{"text": f"text {i}", "label": ["v1.0", "1.0"][i % 2]} for i in range(60)]
    assert load_task(spec(write(tmp_path / "v.jsonl", versions))).label_names == ("1.0", "v1.0")
