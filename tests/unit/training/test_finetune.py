"""FineTuner on a small package: learns, resumes exactly, writes a package."""

import re
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.errors import IntegrityError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import load_model, write_model
from orchestrator.training.finetune import finetuner
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner
from orchestrator.training.finetune.heads import head_name
from orchestrator.training.finetune.lessons import lesson_of
from orchestrator.training.history import History
from orchestrator.training.metrics import StepMetrics

ANIMALS = ["cat", "dog", "horse", "cow", "sheep", "goat", "pig", "hen"]
TOOLS = ["hammer", "saw", "drill", "screw", "nail", "bolt", "wrench", "file"]
FILLER = [
    "the",
    "a",
    "of",
    "with",
    "and",
    "near",
    "under",
    "over",
    "is",
    "was",
    "has",
    "one",
    "two",
    "three",
]
CONFIG = FineTuneConfig(epochs=3, global_batch_size=16, learning_rate=5e-3, max_length=16)


def rows(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    texts = [
        " ".join([*rng.choice(FILLER, 2), rng.choice((ANIMALS, TOOLS)[y]), *rng.choice(FILLER, 1)])
        for y in labels
    ]
    return Rows(texts, None, labels.astype(np.int64))


@pytest.fixture(scope="module")
def task():
    return TaskData("toy/task 1", ("animal", "tool"), rows(150, 1), rows(60, 2), rows(60, 3))


@pytest.fixture(scope="module")
def package(tmp_path_factory, task):
    folder = tmp_path_factory.mktemp("package")
    processor = TextProcessor.train(task.train.texts, 400, max_length=32)
    processor.save(folder)
    config = ModelConfig(
        hidden_size=16,
        vocab_size=processor.vocab_size,
        max_position_embeddings=32,
        encoder={"type": "transformer", "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
        target="mlm",
    )
    torch.manual_seed(0)
    write_model(folder, build_model(config), config)
    return folder


def test_learns_and_counts_its_steps(package, task):
    tuner = FineTuner(package, [lesson_of(task)], CONFIG.model_copy(update={"epochs": 6}), seed=1)
    before = tuner.evaluate("validation")
    curve = [tuner.train_epoch()["loss"] for _ in range(6)]
    assert (tuner.steps_per_epoch, tuner.steps_done, tuner.epochs_done) == (10, 60, 6)
    assert tuner.finished
    assert curve[-1] < curve[0]
    after = tuner.evaluate("validation")
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > max(0.9, task.majority_accuracy)
    assert set(after) == {"loss", "accuracy"}


def test_continued_elsewhere_is_bit_equal(package, task, tmp_path):
    whole = FineTuner(package, [lesson_of(task)], CONFIG, seed=3)
    expected = [(whole.train_epoch(), whole.evaluate("validation")) for _ in range(3)]
    first = FineTuner(package, [lesson_of(task)], CONFIG, seed=3)
    found = [(first.train_epoch(), first.evaluate("validation"))]
    first.save(tmp_path)
    second = FineTuner(package, [lesson_of(task)], CONFIG, seed=3)
    second.load(tmp_path)
    assert (second.steps_done, second.epochs_done) == (10, 1)
    found += [(second.train_epoch(), second.evaluate("validation")) for _ in range(2)]
    assert found == expected
    curves = [t.history.frame().drop(columns="seconds") for t in (whole, second)]
    assert curves[0].equals(curves[1])


def test_batches_are_made_ahead_and_are_the_same(package, task, monkeypatch):
    tuner = FineTuner(package, [lesson_of(task)], CONFIG, seed=3)
    threads, window = set(), tuner.source.window

    def watched(step, rank, world):
        threads.add(threading.current_thread().name)
        return window(step, rank, world)

    monkeypatch.setattr(tuner.source, "window", watched)
    found = [tuner.train_epoch() for _ in range(2)]
    assert threads == {"prefetch"}
    monkeypatch.setattr(finetuner, "Prefetch", nullcontext)
    plain = FineTuner(package, [lesson_of(task)], CONFIG, seed=3)
    assert [plain.train_epoch() for _ in range(2)] == found


def test_a_batch_that_cannot_be_made_fails_at_its_step(package, task, monkeypatch):
    tuner = FineTuner(package, [lesson_of(task)], CONFIG, seed=3)
    window, steps = tuner.source.window, []

    def broken(step, rank, world):
        if step == 4:
            raise ValueError("broken row")
        return window(step, rank, world)

    def step_fn(engine, window, lr):
        steps.append(len(window))
        return StepMetrics({"loss": 0.0})

    monkeypatch.setattr(tuner.source, "window", broken)
    tuner.step_fn = step_fn
    with pytest.raises(ValueError, match="broken row"):
        tuner.train_epoch()
    assert len(steps) == 4
    assert not [each for each in threading.enumerate() if each.name == "prefetch"]


def test_the_seed_decides(package, task):
    losses = [
        FineTuner(package, [lesson_of(task)], CONFIG, seed=s).train_epoch()["loss"]
        for s in (5, 5, 6)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_state_of_another_trial_is_refused(package, task, tmp_path):
    FineTuner(package, [lesson_of(task)], CONFIG, seed=1).save(tmp_path)
    with pytest.raises(IntegrityError, match="another trial"):
        FineTuner(package, [lesson_of(task)], CONFIG, seed=2).load(tmp_path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        FineTuner(package, [lesson_of(task)], CONFIG, seed=2).load(tmp_path / "nowhere")


def test_writes_a_package_that_predicts_the_same(package, task, tmp_path):
    tuner = FineTuner(package, [lesson_of(task)], CONFIG, seed=1)
    tuner.train_epoch()
    tuner.evaluate("test")
    tuner.write(tmp_path)
    model = load_model(tmp_path).eval()
    batch = TextProcessor.load(tmp_path)(task.test.texts, max_length=tuner.max_length)
    with torch.no_grad():
        logits = model.predict(batch)["toy_task_1"]
    answers = tuner.answers("test")
    expected = [answer.scores for answer in answers]
    np.testing.assert_allclose(torch.softmax(logits, -1).numpy(), expected, atol=1e-5)
    history = History.from_parquet(tmp_path / "history.parquet").frame()
    assert set(history["split"]) == {"train", "test"}


def test_caps_keep_the_same_rows_for_every_package(package, task):
    config = CONFIG.model_copy(update={"max_train_rows": 40, "max_eval_rows": 10})
    one, two = (FineTuner(package, [lesson_of(task)], config, seed=4) for _ in range(2))
    assert (one.steps_per_epoch, len(one.data.samples("validation"))) == (3, 10)
    pick = np.arange(40)
    batches = [t.data.samples("train").collate(pick, 0)["input_ids"] for t in (one, two)]
    assert torch.equal(*batches)


@pytest.mark.parametrize(
    ("task_name", "expected"), [("a/b c", "a_b_c"), ("--", "task"), ("pydoc-kind", "pydoc-kind")]
)
def test_head_names(task_name, expected):
    assert head_name(task_name) == expected


def test_passes_of_one_length_learn_what_whole_batches_do(package, task, tmp_path, monkeypatch):
    """The sum of gradients and losses is the same; only padding is saved."""
    still = without_dropout(package, tmp_path)
    config = CONFIG.model_copy(update={"dropout": 0.0, "epochs": 1, "global_batch_size": 24})
    whole = FineTuner(still, [lesson_of(task)], config)
    monkeypatch.setattr("orchestrator.training.finetune.finetuner.is_costly", lambda model: True)
    short = FineTuner(still, [lesson_of(task)], config)
    assert (whole.data.micro_batch_size, short.data.micro_batch_size) == (24, 8)
    for tuner in (whole, short):
        tuner.train_epoch()
        tuner.evaluate()
    for ours, theirs in zip(short.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    values = [[row.value for row in tuner.history.rows] for tuner in (whole, short)]
    assert values[1] == pytest.approx(values[0], abs=1e-5)


def without_dropout(package, folder):
    model = load_model(package)
    quiet = re.sub(r'"(\w*dropout)":[\d.]+', r'"\1":0.0', model.config.model_dump_json())
    write_model(folder, model, ModelConfig.model_validate_json(quiet))
    TextProcessor.load(package).save(folder)
    return folder
