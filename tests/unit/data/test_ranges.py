"""Files cut into ranges: whatever the size of a range, every document is in exactly one."""

import csv
import gzip
import io
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.data.sharded.contracts import divide
from orchestrator.data.sources.contents import UNDIVIDED
from orchestrator.data.sources.opening import open_documents
from orchestrator.data.spec import DatasetSpec

# Line ends, blanks that only Unicode knows, quotes, separators, several bytes a character.
LETTERS = st.sampled_from("ab,\t\"'é漢😀 \u2003\x0b\r\n")
DOCUMENTS = st.lists(st.text(LETTERS, max_size=25), max_size=25)
SIZES = st.integers(1, 200)


def as_lines(documents):
    return "\ufeff" + "\n".join(documents)  # the last line has no end


def as_paragraphs(documents):
    return "\n \u2003\n".join(documents) + "\n"


def as_jsonl(documents):
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in documents]
    return "\n".join(["{broken", *rows, "[]", ""])


def as_tsv(documents):
    cells = [text.replace("\t", " ").replace("\n", " ") for text in documents]
    return "\r\n\nlabel\ttext\n" + "".join(f"x\t{text}\n" for text in cells) + "only\n"


def as_csv(documents):
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerows([["text", "label"], *([text, "x"] for text in documents)])
    return sink.getvalue()


WRITERS = {
    "line.txt": as_lines,
    "paragraph.txt": as_paragraphs,
    "x.jsonl": as_jsonl,
    "x.tsv": as_tsv,
    "x.csv": as_csv,
}


def reading(source, size):
    """Documents and what is left out, read span by span."""
    rejected = Counter()
    spans = source.divide(size)
    return [text for span in spans for text in source.read(span, rejected)], rejected, spans


def source_of(path):
    unit = "paragraph" if "paragraph" in path.name else "line"
    return open_documents(DatasetSpec(source=f"files:{path}", document=unit))


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, size=SIZES)
def test_no_document_is_lost_or_doubled_whatever_the_size_of_a_range(
    tmp_path_factory, name, documents, size
):
    path = tmp_path_factory.getbasetemp() / name
    text = WRITERS[name](documents)
    assume("\n" in text or "\r" not in text)  # lines that end with CR alone are refused
    path.write_bytes(text.encode())
    source = source_of(path)
    whole, reasons, spans = reading(source, UNDIVIDED)
    assert len(spans) <= 1
    assert reading(source, size)[:2] == (whole, reasons)
    if name != "paragraph.txt" and name != "x.tsv":  # formats that hold these texts as they are
        expected = "\n".join(documents).split("\n") if name == "line.txt" else documents
        assert whole == [text.strip() for text in expected if text.strip()]


@settings(max_examples=30, deadline=None)
@given(documents=DOCUMENTS, size=SIZES, rows=st.integers(1, 9))
def test_parquet_is_cut_between_row_groups(tmp_path_factory, documents, size, rows):
    path = tmp_path_factory.getbasetemp() / "x.parquet"
    table = pa.table({"text": pa.array(documents, pa.string()), "id": range(len(documents))})
    pq.write_table(table, path, row_group_size=rows)
    found, _, spans = reading(source_of(path), size)
    assert found == [text.strip() for text in documents if text.strip()]
    assert len(spans) <= max(1, -(-len(documents) // rows))


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "paragraph.txt"])
def test_a_range_is_hardly_larger_than_asked_for(tmp_path, name):
    path = tmp_path / name
    path.write_text(WRITERS[name]([f"document number {n}" for n in range(500)]))
    spans = source_of(path).divide(1000)
    assert 6 < len(spans) < 40
    assert all(span.stop - span.start < 1100 for span in spans)
    assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]


def test_what_cannot_be_entered_in_the_middle_is_one_range(tmp_path):
    text = "\n".join(f"document {n}" for n in range(100))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b.txt").write_text(text)
    source = open_documents(DatasetSpec(source=f"files:{tmp_path}", document="file"))
    assert [span.place for span in source.divide(10)] == ["a.txt.gz", "b.txt"]
    packed = open_documents(DatasetSpec(source=f"files:{tmp_path}/a.txt.gz"))
    assert reading(packed, 10)[0] == text.split("\n")


def test_a_wrong_byte_is_found_by_its_line_in_whatever_range_it_is(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"fine\n" * 300 + b"fa\xe7ade\n" + b"fine\n" * 300)
    for size in (UNDIVIDED, 100):
        with pytest.raises(Exception, match=r"line 301, byte 1502: 0xe7"):
            reading(source_of(path), size)


def test_patterns_name_files_and_places_are_relative(tmp_path):
    for name in ("a/part-0.txt", "a/part-1.txt", "b/part-0.txt", "b/other.txt", "b/.part-3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    spec = DatasetSpec(source=f"files:{tmp_path}/*/part-*.txt")
    source = open_documents(spec)
    assert [span.place for span in source.divide(UNDIVIDED)] == list(source)
    assert list(source) == ["a/part-0.txt", "a/part-1.txt", "b/part-0.txt"]
    with pytest.raises(Exception, match="no file matches"):
        open_documents(DatasetSpec(source=f"files:{tmp_path}/*.jsonl"))


def test_many_small_files_become_few_pieces_and_a_large_one_many(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:03}.txt").write_text("x" * 99 + "\n")
    source = open_documents(DatasetSpec(source=f"files:{tmp_path}"))
    assert [len(piece.spans) for piece in divide(0, source, 1024)] == [10] * 5
    (tmp_path / "010.txt").write_text(("x" * 99 + "\n") * 30)
    pieces = divide(0, open_documents(DatasetSpec(source=f"files:{tmp_path}")), 1024)
    assert [len(piece.spans) for piece in pieces][:5] == [10, 1, 1, 3, 10]
    assert divide(0, source, UNDIVIDED)[0].size == 49 * 100 + 30 * 100
