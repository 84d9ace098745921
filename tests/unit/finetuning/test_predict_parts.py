"""Batch prediction without Ray: formats, rejects, pieces, and parts that are committed once."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import orchestrator
from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.finetuning.predicting.config import PredictConfig
from orchestrator.finetuning.predicting.parts import PartJob, PartWorker
from orchestrator.finetuning.predicting.runner import _claim, _summary, prepare
from orchestrator.finetuning.predicting.tables import answer_types
from orchestrator.tasks.base import build_task, tasks
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import TaskSpec
from tests.support.packages import SENTENCES, commit_tiny

ROWS = 50
TAGGER = {"type": "tags", "name": "ner", "num_labels": 3}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    zoo = Zoo(tmp_path_factory.mktemp("zoo"))
    commit_tiny(zoo)
    commit_tiny(zoo, "tagger", targets=(TAGGER,))
    return zoo


def frame() -> pd.DataFrame:
    texts = [f"{SENTENCES[i % len(SENTENCES)]} {i}" for i in range(ROWS)]
    return pd.DataFrame({"id": np.arange(ROWS), "text": texts, "label": "kept"})


def job(zoo, folder: Path, **settings) -> PredictConfig:
    values = {"package": "tiny", "output": str(folder / "out"), "run": {"zoo": zoo.root}}
    return validate_config(PredictConfig, values | settings, "test")


def answer(config: PredictConfig, *, stop: int | None = None):
    """Answer the pieces in this process, as the actors do."""
    plan, output = prepare(config), Path(config.output).absolute()
    _claim(output, plan)
    worker = PartWorker(PartJob(output=str(output), zoo=config.run.zoo, threads=1, device="cpu"))
    return [worker(piece) for piece in plan.pieces[:stop]]


def read(folder: Path) -> pd.DataFrame:
    return ds.dataset(folder / "out", format="parquet").to_table().to_pandas()


WRITERS = {
    "rows.csv": lambda path: frame().to_csv(path, index=False),
    "rows.tsv": lambda path: frame().to_csv(path, index=False, sep="\t"),
    "rows.jsonl": lambda path: frame().to_json(path, orient="records", lines=True),
    "rows.jsonl.gz": lambda path: frame().to_json(path, orient="records", lines=True),
    "rows.parquet": lambda path: frame().to_parquet(path, row_group_size=13),
    "rows.txt": lambda path: path.write_text("\n\n".join(frame().text) + "\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_keeps_rows_columns_and_order(tmp_path, zoo, name):
    WRITERS[name](tmp_path / name)
    parts = answer(job(zoo, tmp_path, input=str(tmp_path / name), piece_rows=7, embedding=True))
    found = read(tmp_path)
    assert len(parts) == (1 if name.endswith(".gz") else -(-ROWS // 7))
    assert sum(part.rows for part in parts) == ROWS
    assert list(found.text) == list(frame().text)
    columns = ["text"] if name.endswith(".txt") else ["id", "text", "label"]
    assert list(found.columns[: len(columns)]) == columns
    if "id" in columns:
        assert list(found.id.astype(int)) == list(range(ROWS))
    package = orchestrator.load("tiny", zoo=zoo.root)
    expected = package.predict(list(frame().text))
    assert list(found.answer_label) == [each.label for each in expected]
    np.testing.assert_allclose(
        np.stack(found.answer_scores), [each.scores for each in expected], atol=1e-6
    )
    np.testing.assert_allclose(
        np.stack(found.answer_embedding), package.embed(list(frame().text)), atol=1e-5
    )
    assert set(found.answer_package) == {package.package.manifest_sha256}


def test_bad_rows_go_to_a_file_with_their_reasons(tmp_path, zoo):
    good = json.dumps({"text": SENTENCES[0], "n": 1})
    lines = [good, "{broken", json.dumps({"text": " "}), json.dumps({"text": 5}), "", "[1]"]
    lines += [json.dumps({"n": 2}), good]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    parts = answer(job(zoo, tmp_path, input=str(tmp_path / "rows.jsonl"), piece_rows=3))
    assert [part.rows for part in parts] == [1, 0, 1]
    files = sorted((tmp_path / "out" / "_rejected").iterdir())
    rejects = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [(each["row"], each["reason"]) for each in rejects] == [
        (1, "not a JSON object"),
        (2, "empty text"),
        (3, "text is not a string"),
        (4, "not a JSON object"),
        (5, "text missing"),
    ]
    assert rejects[0]["content"] == "{broken"
    assert list(read(tmp_path).n) == [1, 1]


def test_a_part_is_answered_once_and_again_only_when_it_is_gone(tmp_path, zoo):
    frame().to_csv(tmp_path / "rows.csv", index=False)
    config = job(zoo, tmp_path, input=str(tmp_path / "rows.csv"), piece_rows=20)
    first = answer(config, stop=2)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    again = answer(config)
    assert again[:2] == first
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    content = (tmp_path / "out" / "part-00001.parquet").read_bytes()
    (tmp_path / "out" / "part-00001.parquet").write_bytes(content[:100])
    (tmp_path / "out" / "_state" / "part-00002.json").unlink()
    answer(config)
    assert (tmp_path / "out" / "part-00001.parquet").read_bytes() == content
    assert list(read(tmp_path).id.astype(int)) == list(range(ROWS))


def test_parts_have_one_schema_whatever_their_rows(tmp_path, zoo):
    """Spans of a part may all be empty, and a column may be empty or mixed in one part."""
    rows = [{"text": "a", "x": None}, {"text": "b", "x": 1}, {"text": "c", "x": {"y": 2}}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer(job(zoo, tmp_path, input=str(tmp_path / "rows.jsonl"), piece_rows=1, package="tagger"))
    schemas = {str(pq.read_schema(p)) for p in (tmp_path / "out").glob("part-*.parquet")}
    assert len(schemas) == 1
    table = ds.dataset(tmp_path / "out", format="parquet").to_table()
    assert table["x"].to_pylist() == [None, "1", '{"y": 2}']


def test_words_that_are_given_are_tagged_one_by_one(tmp_path, zoo):
    rows = [{"tokens": SENTENCES[0].split()}, {"tokens": ["one", "two"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer(job(zoo, tmp_path, input=str(tmp_path / "rows.jsonl"), package="tagger"))
    assert [len(tags) for tags in read(tmp_path).answer_tags] == [
        len(SENTENCES[0].split()),
        2,
    ]


def test_jsonl_out_has_the_values_of_the_input(tmp_path, zoo):
    rows = [{"text": "a", "x": {"y": [1, "é"]}}, {"text": "b"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer(job(zoo, tmp_path, input=str(tmp_path / "rows.jsonl"), format="jsonl"))
    lines = (tmp_path / "out" / "part-00000.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [{k: v for k, v in row.items() if not k.startswith("answer_")} for row in found] == rows
    assert found[0]["answer_label"]


def test_parquet_keeps_types_that_json_has_not(tmp_path, zoo):
    table = pa.table(
        {"text": ["a", "b"], "day": pa.array([1, 2], pa.date32()), "raw": [b"x", None]}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    answer(job(zoo, tmp_path, input=str(tmp_path / "rows.parquet")))
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert found.select(["text", "day", "raw"]).equals(table)


def test_a_pattern_reads_all_files_in_the_order_of_their_names(tmp_path, zoo):
    for number in (2, 0, 1):
        frame()[number * 10 : number * 10 + 10].to_parquet(tmp_path / f"{number}.parquet")
    answer(job(zoo, tmp_path, input=str(tmp_path / "*.parquet"), piece_rows=4))
    assert list(read(tmp_path).id) == list(range(30))


def test_a_compressed_file_is_read_from_its_beginning(tmp_path, zoo):
    with gzip.open(tmp_path / "rows.csv.gz", "wt") as file:
        frame().to_csv(file, index=False)
    answer(job(zoo, tmp_path, input=str(tmp_path / "rows.csv.gz")))
    assert list(read(tmp_path).text) == list(frame().text)


BAD = {
    "no such column": ({"text_column": "txt"}, "no column 'txt'. Did you mean 'text'?"),
    "numbers for texts": ({"text_column": "n"}, "holds values of type int, not texts"),
    "no such file": ({"input": "rowz.jsonl"}, "Did you mean 'rows.jsonl'?"),
    "another scheme": ({"input": "hf:some/data"}, "is not a path"),
    "no match": ({"input": "*.parquet"}, "no file matches"),
    "mixed formats": ({"input": "*.*"}, "is not of"),
    "no such head": ({"target": "topik"}, "Did you mean 'topic'?"),
    "no such package": ({"package": "tiyn"}, "tiny"),
    "not UTF-8": ({"input": "latin.jsonl"}, "line 2, byte 16: 0xe9 is not UTF-8"),
    "columns of answers": ({"prefix": "te"}, "begin with 'te' already: text"),
    "no usual column": ({"input": "other.jsonl"}, "Name one with text_column. Columns: body."),
    "a full folder": ({"output": "."}, "is not empty"),
    "no rows": ({"input": "empty.jsonl"}, "no rows"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_error_before_anything_is_written(
    tmp_path, zoo, monkeypatch, settings, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "n": 1}\n')
    (tmp_path / "latin.jsonl").write_bytes('{"text": "a"}\n{"é": "a"}\n'.encode("latin1"))
    (tmp_path / "other.jsonl").write_text('{"body": "a"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "page.html").write_text("a")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        prepare(job(zoo, tmp_path, **({"input": "rows.jsonl"} | settings)))
    assert message in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_answers_of_another_job_are_not_continued(tmp_path, zoo):
    frame().to_csv(tmp_path / "rows.csv", index=False)
    config = job(zoo, tmp_path, input=str(tmp_path / "rows.csv"))
    answer(config)
    prepare(config)
    frame()[:5].to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match="these differ: files, pieces"):
        prepare(config)


def test_answers_of_every_kind_have_a_table_type():
    for kind in tasks.names():
        spec = TaskSpec(kind=kind, head="head", labels=("a", "b"))
        assert answer_types(build_task(spec)), kind


def image_model(zoo):
    from orchestrator.data.media.images import ImageProcessor
    from orchestrator.modeling.builder import build_model
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.modeling.package import write_model

    patch = {"type": "patch", "image_size": 8, "patch_size": 4, "channels": 1}
    config = ModelConfig.model_validate(
        {
            "hidden_size": 16,
            "embedding": {"parts": [patch]},
            "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2},
            "target": [{"type": "cls", "name": "digit", "num_labels": 2}],
        }
    )
    task = {"kind": "classification", "modality": "vision", "labels": {"digit": ["no", "yes"]}}
    with zoo.draft("eye", kind="finetuned", task=task) as draft:
        write_model(draft.path, build_model(config), config)
        ImageProcessor.of_family("vit", side=8, channels=1).save(draft.path)
        return draft.commit()


def test_a_folder_of_images_is_answered_file_by_file(tmp_path, zoo):
    from orchestrator.data.sources.digits import digit_pixels, png, read_digits

    image_model(zoo)
    folder = tmp_path / "digits"
    folder.mkdir()
    for number, pixels in enumerate(digit_pixels(read_digits())[:5]):
        (folder / f"{number}.png").write_bytes(png(pixels))
    (folder / "9.png").write_bytes(b"not an image")
    parts = answer(job(zoo, tmp_path, package="eye", input=str(folder), piece_rows=4))
    assert [part.rows for part in parts] == [4, 1]
    assert parts[1].rejected == {"cannot be decoded as a picture": 1}
    found = read(tmp_path)
    assert [Path(path).name for path in found.path] == [f"{i}.png" for i in range(5)]
    assert set(found.answer_label) <= {"no", "yes"}
    with pytest.raises(InputError, match="these are of image"):
        prepare(job(zoo, tmp_path, package="tagger", input=str(folder), output=str(tmp_path / "o")))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x.txt"])
def test_half_of_a_character_is_answered_and_counted(zoo, tmp_path, name, form):
    texts = [SENTENCES[0], "cut in two \ud83d", SENTENCES[1]]
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    if name == "x.jsonl":
        (tmp_path / name).write_text(
            "\n".join(json.dumps({"text": t, "b\ud83d": 1}) for t in texts)
        )
    elif name == "x.parquet":
        pq.write_table(pa.table({"text": pa.array(raw).view(pa.string())}), tmp_path / name)
    else:
        head = [b"text"] if name == "x.csv" else []
        (tmp_path / name).write_bytes(b"\n".join([*head, *raw]))
    (part,) = answer(job(zoo, tmp_path, input=str(tmp_path / name), format=form))
    assert (part.rows, part.rejected) == (3, {})
    assert part.repaired == (3 if name == "x.jsonl" else 1)
    if form == "parquet":
        found = read(tmp_path).to_dict("records")
    else:
        lines = (tmp_path / "out/part-00000.jsonl").read_text().splitlines()
        found = list(map(json.loads, lines))
    assert [row["text"].strip() for row in found] == [texts[0], "cut in two \ufffd", texts[2]]
    assert all(row["answer_label"] for row in found)


def test_a_text_of_parquet_that_is_not_utf8_is_rejected(zoo, tmp_path):
    raw = pa.array([SENTENCES[0].encode(), b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "x.parquet")
    (part,) = answer(job(zoo, tmp_path, input=str(tmp_path / "x.parquet")))
    assert (part.rows, part.rejected) == (1, {"text is not UTF-8": 1})


def test_texts_of_the_python_api_are_repaired(zoo, caplog):
    package = orchestrator.load("tiny", zoo=zoo.root)
    first, second = package.predict(["cut in two \ud83d", "cut in two \ufffd"])
    assert first == second
    assert "1 × row with half of a character" in caplog.text
    assert np.array_equal(*package.embed(["cut in two \ud83d", "cut in two \ufffd"]))


def test_the_share_of_unknown_tokens_is_counted(zoo, tmp_path):
    texts = [SENTENCES[0], f"漢字漢字 {SENTENCES[1]}"]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    config = job(zoo, tmp_path, input=str(tmp_path / "x.jsonl"), piece_rows=1)
    parts = answer(config)
    assert parts[0].unknown_share == 0.0
    assert parts[1].unknown_share > 0.01
    summary = _summary(prepare(config), parts)
    assert summary.unknown_share == pytest.approx(parts[1].unknown_share / 2)
