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
from orchestrator.quantization.inputs import encode_rows, probe_texts
from orchestrator.quantization.source import check_labels, choose_target, input_limit, read_source

from .models import HEADS, model_config, random_model, state_of

CONFIG = model_config({"type": "transformer", "num_layers": 1, "num_heads": 4})
JOB = QuantizeConfig(run={"name": "q"}, batch_size=4)
TEXTS = [f"{'word ' * (index % 7 + 1)}number {index}" for index in range(30)]


def task_of(names=("a", "b", "c", "d", "e"), **fields):
    rows = Rows(TEXTS, None, np.arange(30) % len(names), **fields)
    return TaskData("toy", tuple(names), rows, rows, rows)


def test_a_target_is_chosen_by_name_or_is_the_only_one():
    only = model_config({"type": "lstm"}, heads=({"type": "mlm"}, HEADS[0]))
    assert choose_target(only, None).name == "mean"
    assert choose_target(CONFIG, "last").name == "last"
    for wanted in (None, "sp", "genre"):
        with pytest.raises(InputError, match="mean, first, last, max"):
            choose_target(CONFIG, wanted)
    with pytest.raises(InputError, match="orchestrator select"):
        choose_target(model_config({"type": "lstm"}, heads=({"type": "mlm"},)), None)


def test_the_data_must_have_the_classes_of_the_head_in_their_order():
    head = choose_target(CONFIG, "mean")
    check_labels(head, task_of(), {"mean": list("abcde")})
    check_labels(head, task_of(), None)
    with pytest.raises(InputError, match="was trained on"):
        check_labels(head, task_of(), {"mean": list("abced")})
    with pytest.raises(InputError, match="3 classes"):
        check_labels(head, task_of("abc"), {})
    with pytest.raises(InputError, match="images"):
        check_labels(head, task_of(images=np.zeros((30, 1, 2, 2), np.float32)), None)


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
    rows = task_of().train
    texts = encode_rows(rows, processor, 20, JOB, 16)
    assert len(texts) == len(texts.labels) == 20
    assert [len(batch["input_ids"]) for batch in texts.batches] == [4] * 5
    assert sorted(texts.order.tolist()) == list(range(20))
    widths = [batch["input_ids"].shape[1] for batch in texts.batches]
    assert widths == sorted(widths)
    again = encode_rows(rows, processor, 20, JOB, 16)
    assert np.array_equal(again.batches[2]["input_ids"], texts.batches[2]["input_ids"])
    other = encode_rows(rows, processor, 20, JOB.model_copy(update={"seed": 8}), 16)
    assert not np.array_equal(other.labels, texts.labels)
    everything = encode_rows(rows, processor, 500, JOB, 16)
    assert np.array_equal(everything.labels, rows.labels)


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
