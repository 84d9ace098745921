"""Bad input of a quantization job: one clear error before any work, or a defined answer."""

import json

import numpy as np
import pytest
import torch

from orchestrator.cli import main
from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import load_model, read_config, write_model
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import prepare, read_subject
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, MAX_LENGTH, SENTENCES, commit_graph, commit_tiny

HALF = "an array \ud83d of tasks"
"""A text with half of a surrogate pair."""


@pytest.fixture
def place(tmp_path):
    rows = [
        {"text": f"{SENTENCES[index % 6]} {index}", "label": LABELS[index % 3]}
        for index in range(90)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    commit_tiny(Zoo(tmp_path / "zoo"))
    return tmp_path


def words(place, *changes, goal="goal.max_accuracy_drop=0.5"):
    source = f"data.source=files:{place / 'rows.jsonl'}"
    places = [f"run.zoo={place / 'zoo'}", f"run.dir={place / 'runs'}"]
    return ["quantize", "tiny", goal, source, *places, *changes]


def config(place, **changes):
    settings = {
        "run": {"dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": "tiny",
        "data": {"source": f"files:{place / 'rows.jsonl'}"},
        "goal": {"max_accuracy_drop": 0.5},
        "latency": {"length": 8},
        **changes,
    }
    return validate_config(QuantizeConfig, settings, "test")


def refused(place, capsys, command):
    """Run a command that must fail before work starts; return its message."""
    assert main(command) == 2
    found = capsys.readouterr()
    line = json.loads(found.out.splitlines()[-1])
    assert (line["status"], line["exit_code"]) == ("failed", 2)
    assert not (place / "runs").exists()  # nothing half-written
    return line["error"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(place, capsys, value):
    zoo = Zoo(place / "zoo")
    package = zoo.get("tiny")
    model, name = load_model(package.path), "encoder.layers.0.feed_forward.down.weight"
    with torch.no_grad():
        model.get_parameter(name)[1, 2] = value
    with zoo.draft("tiny", kind="finetuned", producer={"stage": "test", "job": "bad"}) as draft:
        write_model(draft.path, model, read_config(package.path))
        TextProcessor.load(package.path).save(draft.path)
        draft.commit()
    message = refused(place, capsys, words(place))
    assert name in message
    assert "finite" in message


@pytest.mark.parametrize("content", ["", "\n \n", "one text\n"])
def test_no_unlabelled_text_is_refused(place, capsys, content):
    (place / "texts.txt").write_text(content)
    texts = f"data.source=files:{place / 'texts.txt'}"
    message = refused(place, capsys, words(place, texts, goal="goal.min_cosine=0.9"))
    assert "at least 24 are needed" in message


def test_labels_in_another_order_are_refused(place, capsys):
    """The source names the classes of its numbers in another order than the package has them."""
    rows = [{"text": f"{SENTENCES[i % 6]} {i}", "label": i % 3} for i in range(90)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "labels.txt").write_text("\n".join(reversed(LABELS)))
    message = refused(place, capsys, words(place))
    assert str(list(reversed(LABELS))) in message
    assert str(list(LABELS)) in message


def test_a_tokenizer_that_reads_more_than_the_graph_has_positions_is_cut(place):
    """The tokenizer's own limit is 4096, the model has 64 positions, the package states 48."""
    zoo = Zoo(place / "zoo")
    package = zoo.get("tiny")
    with zoo.draft(
        "long", kind="finetuned", producer={"stage": "test", "job": "long"},
        task={"kind": "classification", "labels": {"topic": list(LABELS)}, "max_length": 4096},
    ) as draft:  # fmt: skip
        write_model(draft.path, load_model(package.path), read_config(package.path))
        processor = TextProcessor.load(package.path)
        processor.max_length = 4096
        processor.save(draft.path)
        draft.commit()
    job = config(place, package="long")
    assert read_subject(job).limit == 64
    rows = [{"text": "task " * 3000 + str(i), "label": LABELS[i % 3]} for i in range(90)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = prepare(job).inputs.texts
    assert {length for part in texts.test.parts for length in part.lengths} == {64}
    with pytest.raises(InputError, match="max_length: 65; the model has 64 positions"):
        read_subject(config(place, package="long", max_length=65))
    answer = commit_graph(zoo, zoo.get("long"))
    limited = OnnxModel.load(answer.path)
    with pytest.raises(InputError, match="texts of 65 tokens; the model has 64 positions"):
        limited.predict({"input_ids": np.ones((1, 65), np.int64)})
    assert MAX_LENGTH < 64


def test_half_of_a_surrogate_pair_in_a_file_is_read_as_a_replacement_character(place):
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    rows[0]["text"] = HALF
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = prepare(config(place)).data
    texts = [text for name in ("train", "validation", "test") for text in data.split(name).texts]
    assert "an array \ufffd of tasks" in texts
    assert len(texts) == 90


@pytest.mark.parametrize("kind", [None, "row_s7"])
def test_half_of_a_surrogate_pair_is_one_error_where_texts_are_given_directly(place, kind):
    zoo = Zoo(place / "zoo")
    package = zoo.get("tiny") if kind is None else commit_graph(zoo, zoo.get("tiny"), kind=kind)
    rows = Rows(["a text", HALF], None, np.zeros(2))
    predictor = Predictor.open(package)
    for ask in (predictor.answers, predictor.embed):
        with pytest.raises(InputError, match=r"text 1: .* has half of a surrogate pair"):
            ask(rows)
    processor = TextProcessor.load(package.path)
    with pytest.raises(InputError, match=r"text 0: .* has half of a surrogate pair"):
        processor.word_arrays([["a", HALF]])
    with pytest.raises(InputError, match=r"text 1: None is a NoneType\. Give a text"):
        processor.encode(["a text", None])
