"""Answers, choices, similarity, texts and files of images and sounds: from tables to rows."""

import json
import wave

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

SPLITS = ("train", "validation", "test")


def load(path, form, **columns):
    columns = {"max_bad_share": 1.0, **columns}
    return load_task(DatasetSpec(source=f"files:{path}", **columns), form=FORMS[form])


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def context(i):
    return f" The city number {i} lies on river {i * 7} in the north."


def squad_rows():
    """Three questions about each of twenty contexts, the last one without an answer."""
    rows = []
    for i in range(20):
        text = context(i)
        for word in ("city", "river"):
            answer = f"{word} number {i}" if word == "city" else f"river {i * 7}"
            rows.append((f"Which {word} is it in {i}?", text, answer, text.index(answer)))
        rows.append((f"Who lives in {i}?", text, None, None))
    return rows


def write_squad(folder, layout):
    rows = squad_rows()
    if layout == "json":
        paragraphs = {}
        for question, text, answer, start in rows:
            answers = [] if answer is None else [{"text": answer, "answer_start": start}]
            extra = {"plausible_answers": [{"text": "city", "answer_start": 5}]}
            qa = {"id": question, "question": question, "answers": answers}
            qa |= {"is_impossible": True, **extra} if answer is None else {"is_impossible": False}
            paragraphs.setdefault(text, []).append(qa)
        data = [
            {"title": "t", "paragraphs": [{"context": c, "qas": q}]} for c, q in paragraphs.items()
        ]
        path = folder / "squad.json"
        path.write_text(json.dumps({"version": "v2.0", "data": data}))
        return path
    nested = [
        {
            "question": q,
            "context": c,
            "answers": {"text": [a] if a else [], "answer_start": [s] if a else []},
        }
        for q, c, a, s in rows
    ]
    if layout == "jsonl":
        return lines(folder / "x.jsonl", nested)
    if layout == "parquet":
        pd.DataFrame(nested).to_parquet(folder / "x.parquet")
        return folder / "x.parquet"
    flat = pd.DataFrame(rows, columns=["question", "context", "answer", "answer_start"])
    flat.to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


@pytest.mark.parametrize("layout", ["json", "jsonl", "parquet", "csv"])
def test_every_layout_of_squad_gives_the_same_rows(tmp_path, layout):
    data = load(write_squad(tmp_path, layout), "answers")
    assert data.rejected == {}
    found = {
        (question, text, answers[0] if answers else (None, None))
        for split in SPLITS
        for question, text, answers in zip(
            data.split(split).texts, data.split(split).pairs, data.split(split).labels, strict=True
        )
    }
    assert found == {(q, c, (a, s)) for q, c, a, s in squad_rows()}
    for text, answers in zip(data.train.pairs, data.train.labels, strict=True):
        assert all(text[start : start + len(answer)] == answer for answer, start in answers)


def test_questions_about_one_context_are_in_one_split(tmp_path):
    data = load(write_squad(tmp_path, "jsonl"), "answers")
    contexts = [set(data.split(split).pairs) for split in SPLITS]
    assert sum(map(len, contexts)) == 20
    assert [len(data.split(split)) for split in SPLITS] == [42, 6, 12]
    again = load(write_squad(tmp_path, "csv"), "answers")
    assert set(again.test.pairs) == contexts[2]


def test_a_context_that_is_held_out_is_removed_from_train(tmp_path):
    rows = json.loads("[" + ",".join(write_squad(tmp_path, "jsonl").read_text().split("\n")) + "]")
    (tmp_path / "x.jsonl").unlink()
    lines(tmp_path / "train.jsonl", rows)
    lines(tmp_path / "test.jsonl", [{**row, "question": "Why?"} for row in rows[:3]])
    data = load(tmp_path, "answers")
    assert data.rejected["train row also held out"] == 3
    assert not set(data.test.pairs) & {*data.train.pairs, *data.validation.pairs}


def test_squad_files_are_splits_by_their_official_names(tmp_path):
    text = write_squad(tmp_path, "json").read_text()
    (tmp_path / "squad.json").unlink()
    (tmp_path / "train-v2.0.json").write_text(text)
    (tmp_path / "dev-v2.0.json").write_text(text.replace("north", "south"))
    (tmp_path / "config.json").write_text("{}")
    data = load(tmp_path, "answers")
    assert len(data.validation) == 60
    assert all("south" in text for text in data.validation.pairs)


def test_unusable_answers_are_counted_by_reason(tmp_path):
    good = [
        {"question": q, "context": c, "answer": a or "", "answer_start": s}
        for q, c, a, s in squad_rows()
    ]
    bad = [
        {"question": "q1", "context": "some context", "answer": "context", "answer_start": 2},
        {"question": "q2", "context": "some context", "answer": "contest"},
        {"question": "q3", "context": "some context", "answer": 7, "answer_start": 0},
        {"question": "q4", "context": "some context", "answer": "some", "answer_start": "x"},
        {"question": "q5", "context": " ", "answer": "some", "answer_start": 0},
        {"question": "", "context": "some context", "answer": "some", "answer_start": 0},
        {"question": "q6", "context": "some context", "answer": float("nan")},
    ]
    data = load(lines(tmp_path / "x.jsonl", [*good, *bad]), "answers")
    assert data.rejected == {
        "answer is not at answer_start": 1,
        "answer is not in the context": 1,
        "answer is not a text": 2,
        "answer_start is not a whole number": 1,
        "empty text": 2,
    }


CHOICES = [(f"Question {i}?", [f"a{i}", f"b{i}", f"c{i}"][: 2 + i % 2], i % 2) for i in range(30)]


def choice_rows(layout):
    for i, (question, choices, right) in enumerate(CHOICES):
        cells = [*choices, ""][:3]
        if layout == "choices":
            yield {"question": question, "choices": choices, "label": right}
        elif layout == "arc":
            letters = "ABC"[: len(choices)]
            yield {
                "question": question,
                "choices": {"text": choices, "label": list(letters)},
                "answerKey": letters[right],
            }
        elif layout == "columns":
            names = [f"ending{n}" for n in range(3)]
            yield {"sent2": question, **dict(zip(names, cells, strict=True)), "label": str(right)}
        elif layout == "letters":
            yield {
                "question": question,
                "A": cells[0],
                "B": cells[1],
                "C": cells[2],
                "answer": "AB"[right],
            }
        elif layout == "text":
            yield {"question": question, "options": choices, "answer": choices[right]}
        else:
            yield {
                "context": f"Context {i}.",
                "question": question,
                "choices": choices,
                "label": right,
            }


@pytest.mark.parametrize("layout", ["choices", "arc", "columns", "letters", "text", "context"])
def test_every_layout_of_choices_gives_the_same_rows(tmp_path, layout):
    data = load(lines(tmp_path / "x.jsonl", list(choice_rows(layout))), "choice")
    found = {
        ((rows.pairs or rows.texts)[i], rows.choices[i], int(rows.labels[i]))
        for rows in (data.split(split) for split in SPLITS)
        for i in range(len(rows))
    }
    assert found == {(question, tuple(choices), right) for question, choices, right in CHOICES}
    assert data.train.labels.dtype == np.int64
    assert (data.train.pairs is not None) == (layout == "context")
    assert data.rejected == {}


def test_unusable_choices_are_counted_by_reason(tmp_path):
    bad = [
        {"question": "q", "choices": ["a"], "label": 0},
        {"question": "q", "choices": ["a", " "], "label": 0},
        {"question": "q", "choices": ["a", "b"], "label": 2},
        {"question": "q", "choices": ["a", "b"], "label": float("nan")},
        {"question": "q", "choices": ["a", "b"], "label": None},
        {"question": "q", "choices": 7, "label": 0},
    ]
    data = load(lines(tmp_path / "x.jsonl", [*choice_rows("choices"), *bad]), "choice")
    assert data.rejected == {
        "fewer than two choices": 1,
        "a choice is empty or not a text": 1,
        "label names no choice": 2,
        "label missing": 1,
        "choices are not a list": 1,
    }


def test_similarity_has_scores_positives_or_negatives(tmp_path):
    scored = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "score": i / 5} for i in range(25)]
    data = load(lines(tmp_path / "x.jsonl", scored), "similarity")
    assert data.train.labels.dtype == np.float32
    assert data.train.negatives is None
    for i, label in zip(data.train.texts, data.train.labels, strict=True):
        assert label == np.float32(int(i[1:]) / 5)
    rows = [{"anchor": f"a{i // 2}", "positive": f"b{i}", "negative": f"c{i}"} for i in range(30)]
    data = load(lines(tmp_path / "y.jsonl", rows), "similarity")
    assert set(data.train.labels.tolist()) == {1.0}
    assert [n[1:] for n in data.train.negatives] == [b[1:] for b in data.train.pairs]
    anchors = [set(data.split(split).texts) for split in SPLITS]
    assert sum(map(len, anchors)) == 15  # no anchor is in two splits
    bad = [{**scored[0], "sentence1": "new", "score": v} for v in (float("nan"), "high", None)]
    data = load(lines(tmp_path / "z.jsonl", [*scored, *bad]), "similarity")
    assert data.rejected == {
        "label is not finite": 1,
        "label is not a number": 1,
        "label missing": 1,
    }


@pytest.mark.parametrize(
    ("prompt", "answer"), [("prompt", "completion"), ("input", "target"), ("question", "answer")]
)
def test_texts_follow_prompts(tmp_path, prompt, answer):
    rows = [{prompt: f"p{i // 2}", answer: f" t{i}\nmore "} for i in range(30)]
    data = load(lines(tmp_path / "x.jsonl", [*rows, {prompt: "p", answer: " "}]), "text")
    assert sorted(label for split in SPLITS for label in data.split(split).labels) == sorted(
        f"t{i}\nmore" for i in range(30)
    )
    assert data.rejected == {"label is empty": 1}
    assert sum(len(set(data.split(split).texts)) for split in SPLITS) == 15


def sound(path, value=0.1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.full(800, value) * 32767).astype("<i2").tobytes())
    return path


def test_sounds_come_from_tables_names_and_files_beside_them(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(12):
        sound(folder / f"{i}_x.wav", i / 20)
    data = load(folder, "text", name_pattern=r"^(\d+)_")
    assert data.train.modality == "audio"
    assert data.train.texts == []
    assert len(data.train) + len(data.validation) + len(data.test) == 12
    for label, content in zip(data.train.labels, data.train.sounds, strict=True):
        assert content == (folder / f"{label}_x.wav").read_bytes()
    for i in range(12):
        (folder / f"{i}_x.txt").write_text(f"number {i}")
    beside = load(folder, "text")
    assert set(beside.test.labels) == {f"number {label}" for label in data.test.labels}
    table = lines(folder / "t.jsonl", [{"audio": f"{i}_x.wav", "text": f"n{i}"} for i in range(12)])
    assert set(load(table, "text").train.labels) == {f"n{label}" for label in data.train.labels}


def test_images_have_the_class_of_their_folder(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(5):
                shade = 20 * i + 100 * (split == "test") + (name == "dog")
                Image.new("L", (4 + i, 4), shade).save(folder / f"{i}.png")
    data = load(tmp_path, "class")
    assert data.label_names == ("cat", "dog")
    assert len(data.test) == 10
    assert data.train.modality == "image"
    rows = [{"image": f"train/cat/{i}.png", "label": "ab"[i % 2]} for i in range(5)]
    rows += [{"image": f"train/dog/{i}.png", "label": "ab"[i % 2]} for i in range(5)]
    table = load(lines(tmp_path / "t.jsonl", rows), "class")
    assert table.label_names == ("a", "b")
    assert table.train.pictures is not None


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        (
            "class",
            {"text": "t", "lable": "x"},
            r"no column called label, .*Is it 'lable'\? Columns: text, lable",
        ),
        ("answers", {"question": "q", "contxt": "c", "answer": "c"}, "Is it 'contxt'"),
        ("choice", {"question": "q", "choice0": "c", "label": 0}, "no columns of choices"),
        ("choice", {"topic": "q", "choices": ["c"], "label": 0}, "no column called question"),
        ("similarity", {"text_a": "q", "c": "c"}, "no column called text_b"),
        ("text", {"prompt": "q", "c": "c"}, "no column called answer, output"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(tmp_path, form, row, message):
    with pytest.raises(InputError, match=message):
        load(lines(tmp_path / "x.jsonl", [row] * 9), form)


def test_sources_that_cannot_be_split_or_read_say_why(tmp_path):
    rows = [{"question": f"q{i}", "context": "one context", "answer": "one"} for i in range(9)]
    with pytest.raises(InputError, match="9 rows are about 1 different texts"):
        load(lines(tmp_path / "x.jsonl", rows), "answers")
    (tmp_path / "x.json").write_text('{"rows": 1}')
    with pytest.raises(InputError, match="has no rows: a list of objects"):
        load(tmp_path / "x.json", "answers")
    (tmp_path / "x.json").write_text('{"data": [{"title": "t", "paragraphs": [{"qas": []}, 1]}]}')
    with pytest.raises(InputError, match="not as SQuAD has them"):
        load(tmp_path / "x.json", "answers")
    (tmp_path / "s").mkdir()
    sound(tmp_path / "s" / "a.wav")
    with pytest.raises(InputError, match="1 files without labels, such as a"):
        load(tmp_path / "s", "text")
