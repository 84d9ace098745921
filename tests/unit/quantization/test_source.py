"""Package, target and data must belong together; texts are encoded once, in order."""

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.package import write_model
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.encoding import RowReader
from orchestrator.quantization.inputs import probe_texts
from orchestrator.quantization.source import check_labels, choose_task, input_limit, read_source
from orchestrator.tasks.base import build_task
from orchestrator.zoo.suite import TaskSpec

from .models import model_config, random_model, state_of

CONFIG = model_config({"type": "transformer", "num_layers": 1, "num_heads": 4})
JOB = QuantizeConfig(run={"name": "q"}, batch_size=4)
TEXTS = [f"{'word ' * (index % 7 + 1)}number {index}" for index in range(30)]


def task_of(names=("a", "b", "c", "d", "e"), **fields):
    rows = Rows(TEXTS, None, np.arange(30) % len(names), **fields)
    return TaskData("toy", tuple(names), rows, rows, rows)


def tasks_of(*heads, labels=tuple("abcde")):
    specs = [TaskSpec(kind="classification", head=head, labels=labels) for head in heads]
    return {spec.head: build_task(spec) for spec in specs}


def test_a_target_is_chosen_by_name_or_is_the_default_or_the_only_one():
    tasks = tasks_of("mean", "last")
    assert choose_task(tasks, ["mean"], None).head == "mean"
    assert choose_task(tasks, ["mean", "last"], "last").head == "last"
    assert choose_task(tasks, ["mean", "last"], None, "mean").head == "mean"
    assert choose_task(tasks, [], None) is None  # an embedder
    for wanted in (None, "genre"):
        with pytest.raises(InputError, match="mean, last"):
            choose_task(tasks, ["mean", "last"], wanted)


def test_the_data_must_have_the_classes_of_the_head_in_their_order():
    (head,) = tasks_of("mean").values()
    check_labels(head, task_of(), {"mean": list("abcde")})
    check_labels(head, task_of(), None)
    (unnamed,) = tasks_of("mean", labels=("LABEL_0", "LABEL_1")).values()
    assert check_labels(unnamed, task_of(("spam", "ham")), None).labels == ("spam", "ham")
    with pytest.raises(InputError, match="was trained on"):
        check_labels(head, task_of(), {"mean": list("abced")})
    with pytest.raises(InputError, match="3 classes"):
        check_labels(head, task_of("abc"), {})
    (tags,) = (build_task(TaskSpec(kind="tags", head="mean", labels=("O", "B-X"))),)
    with pytest.raises(InputError, match="rows of image"):
        check_labels(tags, task_of(images=np.zeros((30, 1, 2, 2), np.float32)), None)


def test_the_input_limit_is_that_of_the_config_the_package_or_the_model():
    def stored(length):
        return SimpleNamespace(manifest=SimpleNamespace(task=SimpleNamespace(max_length=length)))

    assert input_limit(JOB, CONFIG, stored(32)) == 32
    assert input_limit(JOB, CONFIG, stored(400)) == 40
    assert input_limit(JOB, CONFIG, stored(None)) == 40
    asked = JOB.model_copy(update={"max_length": 16})
    assert input_limit(asked, CONFIG, stored(32)) == 16
    with pytest.raises(InputError, match="40 positions"):
        input_limit(JOB.model_copy(update={"max_length": 41}), CONFIG, None)


@pytest.fixture(scope="module")
def processor():
    return TextProcessor.train(TEXTS, vocab_size=300, max_length=16)


def test_rows_are_chosen_by_seed_and_batched_by_length(processor):
    rows, (task,) = task_of().train, tasks_of("mean").values()
    reader = RowReader(processor, task, None, 4)
    split = reader.split(rows, 16, count=20, seed=7)
    (texts,) = split.parts
    assert len(split) == len(texts) == len(split.rows.labels) == 20
    assert [len(batch["input_ids"]) for batch in texts.batches] == [4] * 5
    assert sorted(texts.order.tolist()) == list(range(20))
    widths = [batch["input_ids"].shape[1] for batch in texts.batches]
    assert widths == sorted(widths)
    again = reader.split(rows, 16, count=20, seed=7)
    assert np.array_equal(again.parts[0].batches[2]["input_ids"], texts.batches[2]["input_ids"])
    assert reader.split(rows, 16, count=20, seed=8).rows.texts != split.rows.texts
    everything = reader.split(rows, 16, count=500, seed=7)
    assert np.array_equal(everything.rows.labels, rows.labels)


def test_parts_of_validation_rows_are_random_and_hold_each_row_once(processor):
    texts = [f"word {index}" for index in range(256)]
    rows, (task,) = Rows(texts, None, np.arange(256) % 5), tasks_of("mean").values()
    split = RowReader(processor, task, None, 16).split(rows, 16, count=300, seed=7, parts=True)
    assert [len(part) for part in split.parts] == [64, 64, 128]
    assert sorted(split.rows.texts) == sorted(texts)
    first = split.seen(1).texts
    assert len(first) == 64
    assert first != texts[:64]
    few = RowReader(processor, task, None, 16).split(rows, 16, count=60, seed=7, parts=True)
    assert len(few.parts) == 1


def test_probe_texts_are_whole_and_different(processor):
    rows = Rows(["short one", "short one", "word " * 40, "another"], None, np.zeros(4, int))
    assert probe_texts(rows, processor, 3, 16) == ["short one", "another"]


def test_a_package_is_read_without_loss_and_damage_is_named(tmp_path):
    model = random_model(CONFIG)
    write_model(tmp_path, model, CONFIG)
    source = read_source(tmp_path)
    assert source.model_config == CONFIG
    for name, values in state_of(model).items():
        assert np.array_equal(source.state[name], values)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        read_source(tmp_path)
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="has no parameter"):
        read_source(tmp_path).emit()
