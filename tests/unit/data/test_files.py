import gzip
import json

import numpy as np
import pandas as pd
import pytest

from orchestrator.data.sources.opening import load_task, open_documents
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

ROWS = [(f'text number {i}, "quoted" é', str(i % 3)) for i in range(60)]


def spec(path, **changes):
    return DatasetSpec(source=f"files:{path}", **{"max_bad_share": 1.0, **changes})


def as_tsv(rows):
    return "text_a\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)


def write(path, rows):
    frame = pd.DataFrame(rows, columns=["text", "label"])
    if ".csv" in path.name:
        frame.to_csv(path, index=False)
    elif ".jsonl" in path.name:
        frame.to_json(path, orient="records", lines=True)
    elif ".parquet" in path.name:
        frame.to_parquet(path)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(as_tsv(rows).encode()))
    else:
        path.write_text(as_tsv(rows), encoding="utf-8")
    return path


FORMATS = ["x.tsv", "x.csv", "x.jsonl", "x.parquet", "x.tsv.gz", "x.jsonl.gz", "X.CSV"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_task(tmp_path, name):
    data = load_task(spec(write(tmp_path / name.lower(), ROWS)))
    found = {
        (text, data.label_names[label])
        for split in ("train", "validation", "test")
        for text, label in zip(data.split(split).texts, data.split(split).labels, strict=True)
    }
    assert found == set(ROWS)
    assert data.label_names == ("0", "1", "2")
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [42, 6, 12]
    assert data.rejected == {}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path, name):
    source = spec(write(tmp_path / name.lower(), ROWS))
    assert list(open_documents(source)) == [text for text, _ in ROWS]
    capped = spec(tmp_path / name.lower(), max_documents=7)
    assert list(open_documents(capped)) == [text for text, _ in ROWS[:7]]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
        ("file", ["one\ntwo\n\n \nthree"]),
    ],
)
def test_plain_text_units(tmp_path, unit, expected):
    file = tmp_path / "x.txt"
    file.write_text("\ufeffone\ntwo\n\n \nthree")  # no line end: the last document is not lost
    assert list(open_documents(spec(file, document=unit))) == expected


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name in ("b.txt", "a.txt", ".hidden.txt", "labels.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    assert list(open_documents(spec(tmp_path))) == ["a.txt", "b.txt"]


def test_identity_follows_the_content(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("one")
    first = open_documents(spec(file)).identity
    file.write_text("two")
    assert open_documents(spec(file)).identity != first
    file.write_text("one")
    assert open_documents(spec(file)).identity == first


def test_splits_and_class_names_of_a_folder_are_kept(tmp_path):
    for split, part in (("train", ROWS[:30]), ("dev", ROWS[30:42]), ("test", ROWS[42:])):
        (tmp_path / f"{split}.tsv").write_text(as_tsv(part), encoding="utf-8")
    (tmp_path / "labels.txt").write_text("zero\none\ntwo\n")
    data = load_task(spec(tmp_path))
    assert data.name == tmp_path.name
    assert data.label_names == ("zero", "one", "two")
    assert data.test.texts == [text for text, _ in ROWS[42:]]
    assert sorted(data.train.texts) == sorted(text for text, _ in ROWS[:30])
    assert data.validation.labels.tolist() == [int(label) for _, label in ROWS[30:42]]
    assert list(open_documents(spec(tmp_path))) == [text for text, _ in ROWS[:30]]


def test_rows_of_the_test_are_removed_from_train(tmp_path):
    (tmp_path / "train.tsv").write_text(as_tsv([*ROWS, ROWS[0]]), encoding="utf-8")
    (tmp_path / "test.tsv").write_text(as_tsv(ROWS[:6]), encoding="utf-8")
    data = load_task(spec(tmp_path))
    assert not set(data.train.texts) & set(data.test.texts)
    assert not set(data.validation.texts) & set(data.test.texts)
    assert data.rejected == {"train row also held out": 7}
    assert len(data.test) == 6


def test_pairs_are_read(tmp_path):
    file = tmp_path / "x.tsv"
    file.write_text(
        "text_a\ttext_b\tlabel\n" + "".join(f"a{i}\tb{i}\tyes\nc{i}\td{i}\tno\n" for i in range(5))
    )
    data = load_task(spec(file))
    assert {(a[1:], b[1:]) for a, b in zip(data.train.texts, data.train.pairs, strict=True)} <= {
        (str(i), str(i)) for i in range(5)
    }
    assert data.label_names == ("no", "yes")


def test_unusable_rows_are_counted_by_reason(tmp_path, caplog):
    rows = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    bad = [
        "{not json",
        "[1, 2]",
        '{"text": "  ", "label": "1"}',
        '{"text": null, "label": "1"}',
        '{"text": 5, "label": "1"}',
        '{"text": "x", "label": null}',
        '{"text": "x", "label": [1]}',
        '{"text": "x", "label": 0.5}',
        '{"text": "text   number 0, \\"quoted\\" é", "label": "0"}',
    ]
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join([rows[0], *bad, "", *rows[1:]]), encoding="utf-8")
    assert load_task(spec(file)).rejected == {
        "not a JSON object": 2,
        "empty text": 1,
        "text missing": 1,
        "text is not a string": 1,
        "label missing": 1,
        "label is not a word or whole number": 2,
        "repeated": 1,
    }
    assert "'empty text': 1" in caplog.text


def test_more_bad_rows_than_the_share_allows_are_one_error(tmp_path):
    bad = [(" ", "0"), ("text", ""), ("other text", "NaN")]
    file = write(tmp_path / "x.tsv", [*ROWS, *bad])
    with pytest.raises(InputError) as caught:
        load_task(spec(file, max_bad_share=0.01))
    message = str(caught.value)
    assert f"3 of {len(ROWS) + 3} rows cannot be used." in message
    assert "1 × empty text, 2 × label missing" in message
    assert "raise max_bad_share (0.01)" in message
    assert load_task(spec(file, max_bad_share=0.5)).rejected == {
        "empty text": 1,
        "label missing": 2,
    }


def test_swapped_columns_are_one_error(tmp_path):
    rows = [{"text": "ab"[i % 2], "label": f"a long text number {i}"} for i in range(30)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="Swap text_column and label_column"):
        load_task(spec(tmp_path / "x.jsonl"))


def test_files_and_pairs_with_many_classes_are_not_swapped(tmp_path):
    (tmp_path / "sounds").mkdir()
    for index in range(60):
        (tmp_path / f"sounds/{index % 10}_{index}.wav").write_bytes(bytes([index]))
    sounds = load_task(spec(tmp_path / "sounds", name_pattern=r"^(\d)_"))
    assert len(sounds.label_names) == 10
    rows = [{"text": "Topic?", "text_b": f"text {i}", "label": str(i % 10)} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load_task(spec(tmp_path / "pairs.jsonl")).label_names) == 10


def test_rows_in_two_splits_are_counted_and_shown(tmp_path, caplog):
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "test.csv", ROWS[:4])
    data = load_task(spec(tmp_path))
    assert data.rejected == {"train row also held out": 4}
    assert "rows_in_two_splits" in caplog.text
    assert ROWS[0][0] in caplog.text


def test_rows_of_another_width_are_counted(tmp_path):
    file = tmp_path / "x.tsv"
    file.write_text(as_tsv(ROWS) + "only text\na\tb\tc\n", encoding="utf-8")
    assert load_task(spec(file)).rejected == {"another number of columns than the header": 2}


def test_numbers_sort_as_numbers(tmp_path):
    rows = [(f"t{i}", str(i % 12)) for i in range(60)]
    assert load_task(spec(write(tmp_path / "x.tsv", rows))).label_names == tuple(
        map(str, range(12))
    )


BAD_BYTES = "text_a\tlabel\none\t0\nfa\xe7ade\t1\n".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("x.tsv", BAD_BYTES, {}, ["x.tsv, line 3, byte 21", "0xe7", "iconv"]),
        ("x.txt", b"", {}, ["no rows in train"]),
        ("x.tsv", b"", {}, ["no rows in train"]),
        ("x.tsv", b"text_a\tlabel\n", {}, ["no rows in train"]),
        ("x.tsv", b"text_a\tlabel\n\t1\n", {}, ["no rows", "1 \u00d7 empty text"]),
        ("x.tsv", b"a\tlabel\nx\t1\n", {}, ["text_column", "Columns: a, label"]),
        ("x.tsv", b"text\tb\nx\t1\n", {}, ["label_column", "Columns: text, b"]),
        ("x.tsv", b"text\tlabel\nx\t1\n", {"text_column": "txt"}, ["'txt'", "mean 'text'"]),
        ("x.tsv", b"text\tlabel\nx\t1\n", {"pair_column": "b"}, ["'b'", "second text"]),
        ("x.tsv", b"text\ttext\nx\t1\n", {}, ["same name"]),
        ("x.tsv", b"text\tlabel\nx\t1\ny\t1\n", {}, ["1 class ('1')", "two"]),
        ("x.tsv", as_tsv([*ROWS, ("lonely", "9")]).encode(), {}, ["'9' has 1 row", "at least 3"]),
        ("x.tsv", as_tsv([(f"t{i}", f"l{i}") for i in range(90)]).encode(), {}, ["not classes"]),
        ("x.csv", b'text,label\n"x"y,1\n', {}, ["line 2", "not CSV"]),
        ("x.parquet", b"PAR1", {}, ["cannot read Parquet"]),
        ("x.jsonl.gz", b"not gzip", {}, ["cannot be read"]),
        ("x.png", b"", {}, ["image or a sound", ".jsonl"]),
        ("x.doc", b"", {}, ["no format", ".jsonl"]),
    ],
)  # fmt: skip
def test_bad_files_get_one_clear_error(tmp_path, name, content, options, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_task(spec(tmp_path / name, **options))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_missing_paths_name_the_nearest(tmp_path):
    (tmp_path / "reviews").mkdir()
    with pytest.raises(InputError, match=r"does not exist\. Did you mean 'reviews'"):
        load_task(spec(tmp_path / "review" / "train.tsv"))
    with pytest.raises(InputError, match="the folder is empty"):
        load_task(spec(tmp_path / "reviews"))
    (tmp_path / "reviews" / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.wav is an image or a sound"):
        list(open_documents(spec(tmp_path / "reviews")))


def test_an_unknown_label_in_a_held_out_split_is_named(tmp_path):
    (tmp_path / "train.tsv").write_text(
        as_tsv([(t, f"class{c}") for t, c in ROWS]), encoding="utf-8"
    )
    (tmp_path / "dev.tsv").write_text(as_tsv([("x", "clas1")]))
    with pytest.raises(
        InputError, match=r"'clas1' occurs in validation but not in train\. Did you"
    ):
        load_task(spec(tmp_path))


def test_labels_without_a_name_are_refused(tmp_path):
    write(tmp_path / "x.tsv", ROWS)
    (tmp_path / "labels.txt").write_text("zero\none\n")
    with pytest.raises(InputError, match="'2' has no name: 2 names"):
        load_task(spec(tmp_path / "x.tsv"))


def test_caps_keep_the_shares_of_splits(tmp_path):
    (tmp_path / "train.tsv").write_text(as_tsv(ROWS[:45]), encoding="utf-8")
    (tmp_path / "test.tsv").write_text(as_tsv(ROWS[45:]), encoding="utf-8")
    data = load_task(spec(tmp_path, max_rows=20))
    assert len(data.train) + len(data.validation) == 15
    assert len(data.test) == 5


def test_what_has_no_labels_or_documents_is_refused():
    with pytest.raises(InputError, match="has no labels"):
        load_task(DatasetSpec())
    with pytest.raises(InputError, match="is not a corpus"):
        open_documents(DatasetSpec(source="builtin:digits"))


def test_digits():
    data = load_task(DatasetSpec(source="builtin:digits"))
    assert data.label_names == tuple("0123456789")
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.dtype == np.float32
    assert (data.train.images.min(), data.train.images.max()) == (0, 1)
    total = sum(len(data.split(s)) for s in ("train", "validation", "test"))
    assert total == 1797
    assert data.majority_accuracy < 0.15
    with pytest.raises(ValueError, match="not a split"):
        data.split("dev")
