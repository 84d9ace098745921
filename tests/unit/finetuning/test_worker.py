"""The worker of fine-tuning, in one process: every kind learns, resumes, keeps the best epoch."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.errors import StageError
from orchestrator.finetuning import learning_rate
from orchestrator.finetuning.worker import finetune
from orchestrator.modeling.package import load_model, read_config
from orchestrator.training.engines import torch_engines
from orchestrator.training.history import History
from orchestrator.training.learning_rates import Rate
from tests.support.lessons import job, learn, make_lessons, planned


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.mark.parametrize(
    ("file", "kind", "primary", "least"),
    [
        ("task2", "classification", "accuracy", 0.7),
        ("multilabel", "multilabel", "micro_f1", 0.8),
        ("tags", "tags", "span_f1", 0.8),
        ("numbers", "regression", "spearman", 0.7),
    ],
)
def test_every_kind_is_recognized_and_learns(place, tmp_path, file, kind, primary, least):
    train = {"epochs": 20, "global_batch_size": 16, "max_length": 16, "patience": None}
    config = job(place, file, train=train)
    summary, folder = learn(config, tmp_path)
    (learned,) = summary.tasks
    assert (learned.task.kind, learned.task.head, learned.primary) == (kind, "child", primary)
    figure = learned.test[primary]
    assert figure.low <= figure.value <= figure.high
    assert figure.value > least
    assert summary.best_step % summary.steps_per_epoch == 0
    assert [target.name for target in load_model(folder).config.target] == ["child"]
    if kind == "multilabel":
        assert learned.task.options["threshold"] != 0.5


def test_the_best_epoch_is_taken_and_training_ends_without_a_gain(place, tmp_path):
    train = {"epochs": 40, "global_batch_size": 16, "max_length": 16, "patience": 2}
    summary, folder = learn(job(place, train=train), tmp_path)
    curve = History.from_parquet(folder / "history.parquet").frame()
    curve = curve[(curve.split == "validation") & (curve.metric == "accuracy")]
    assert summary.steps == summary.best_step + 2 * summary.steps_per_epoch
    best = curve.loc[curve.value.idxmax()]
    assert (summary.best_step, summary.validation["accuracy"]) == (best.step, best.value)
    rows = learn(job(place, train=train), tmp_path)[0]  # the export is whole: nothing is trained
    assert rows == summary


@dataclass(frozen=True, slots=True)
class Stopping(Worker):
    """A worker that is asked to stop after some steps."""

    after: int = 0

    def should_stop(self):
        counter.append(1)
        return len(counter) >= self.after


counter: list[int] = []


def test_a_stopped_run_continues_as_if_it_had_not_been(place, tmp_path):
    config = job(place, train={"epochs": 3, "global_batch_size": 16, "max_length": 16})
    whole, folder = learn(config, tmp_path / "whole")
    counter.clear()
    (tmp_path / "cut").mkdir()
    part = finetune(
        Stopping(0, 1, tmp_path / "cut", after=4), planned(config, tmp_path / "cut")
    ).result
    assert part.stopped
    assert part.step == 4
    again, resumed = learn(config, tmp_path / "cut")
    one, two = load_model(folder).state_dict(), load_model(resumed).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.tasks == whole.tasks


def test_several_heads_are_learned_and_another_is_kept(place, tmp_path):
    tasks = [
        {"data": {"source": f"files:{place}/task2.jsonl"}, "head": "thing"},
        {"data": {"source": f"files:{place}/tags.jsonl"}, "head": "found", "weight": 2.0},
    ]
    config = job(place, data=None, tasks=tasks, keep_heads=True)
    summary, folder = learn(config, tmp_path)
    assert summary.watched == "accuracy.thing"
    assert {"accuracy.thing", "span_f1.found", "loss"} == set(summary.validation)
    targets = read_config(folder).target
    assert [target.name for target in targets] == ["thing", "found", "earlier"]
    before = load_model(place / "zoo/encoder/v0001").state_dict()
    after = load_model(folder).state_dict()
    untouched = "targets.earlier.output.weight"
    assert torch.equal(before[untouched], after[untouched])


def test_class_weights_raise_the_recall_of_a_rare_class(place, tmp_path):
    rows = (place / "task2.jsonl").read_text().splitlines()
    rare = [row for i, row in enumerate(rows) if "fruit" not in row or i % 15 == 2]
    (place / "rare.jsonl").write_text("\n".join(rare) + "\n")
    train = {"epochs": 4, "global_batch_size": 16, "max_length": 16, "patience": None}
    recalls = []
    for weights in ("none", {"fruit": 30.0}):
        config = job(place, "rare", class_weights=weights, train=train)
        summary, folder = learn(config, tmp_path / str(len(recalls)))
        recalls.append(summary.tasks[0].test["recall.fruit"].value)
        assert read_config(folder).target[0].class_weights is None
    assert recalls[1] > recalls[0]


def test_adapters_are_merged(place, tmp_path):
    train = {"epochs": 2, "global_batch_size": 16, "max_length": 16, "lora": {"rank": 2}}
    _, folder = learn(job(place, train=train), tmp_path)
    before, after = load_model(place / "zoo/encoder/v0001"), load_model(folder)
    pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=False)
    changed = {name for (name, a), b in pairs if a.shape == b.shape and not torch.equal(a, b)}
    assert changed
    assert all(".query." in name or ".value." in name for name in changed)
    assert np.all([torch.isfinite(t).all() for t in after.state_dict().values()])


def test_the_learning_rate_is_searched_for_once(place, tmp_path):
    train = {"epochs": 1, "max_length": 16, "learning_rate": "auto", "global_batch_size": 8}
    config = job(place, train=train)
    summary, _ = learn(config, tmp_path, Rate(3e-3, "usual"))
    tried = {trial.learning_rate: trial for trial in summary.trials}
    assert list(tried) == [0.003, 0.009, 0.001, 0.027]
    assert sorted(len(trial.scores) for trial in summary.trials) == [1, 1, 2, 2]
    assert len(tried[summary.learning_rate].scores) == 2
    assert tried[summary.learning_rate].steps == 2 * 11
    assert "best of 4 values" in summary.reason
    shutil.rmtree(tmp_path / "export")
    stored = (tmp_path / "learning_rate.json").stat().st_mtime_ns
    assert learn(config, tmp_path, Rate(3e-3, "usual"))[0].trials == summary.trials
    assert (tmp_path / "learning_rate.json").stat().st_mtime_ns == stored


def test_a_head_for_other_labels_is_made_anew(place, tmp_path):
    found = planned(job(place, "task2", head="earlier"), tmp_path)
    assert found.renewed == ("earlier",)  # a, b, c, d in the package
    assert planned(job(place, "task2", head="thing"), tmp_path).renewed == ()


def poison(monkeypatch, steps):
    """Make the gradient of some steps infinite, counted from 1."""
    step, engine = {"now": 0}, torch_engines.SingleEngine

    def forward_backward(self, *args):
        metrics = original(self, *args)
        step["now"] += 1
        if step["now"] in steps:
            next(shard for shard in self.shards() if shard.grad is not None).grad.fill_(np.inf)
        return metrics

    original = engine.forward_backward
    monkeypatch.setattr(engine, "forward_backward", forward_backward)


def test_steps_that_are_not_finite_are_skipped_and_counted(place, tmp_path, monkeypatch, caplog):
    poison(monkeypatch, {2, 3, 9})
    train = {"epochs": 2, "global_batch_size": 16, "max_length": 16}
    summary, folder = learn(job(place, train=train), tmp_path)
    assert summary.skipped_steps == 3
    assert caplog.text.count("is not finite") == 3
    assert all(torch.isfinite(value).all() for value in load_model(folder).state_dict().values())


@pytest.mark.parametrize(("epochs", "said"), [(2, "in a row were not finite"), (1, "No step")])
def test_a_run_that_only_skips_ends_with_one_error(place, tmp_path, monkeypatch, epochs, said):
    poison(monkeypatch, range(100))
    train = {"epochs": epochs, "global_batch_size": 16 if epochs == 2 else 32, "max_length": 16}
    with pytest.raises(StageError, match=said) as caught:
        learn(job(place, train=train), tmp_path)
    assert "Lower train.learning_rate" in str(caught.value)
    assert not (tmp_path / "export").exists()


def test_a_learning_rate_at_which_training_diverges_is_not_chosen(place, tmp_path, monkeypatch):
    monkeypatch.setattr(learning_rate, "FACTORS", (1.0, 1e30))
    train = {"epochs": 1, "max_length": 16, "learning_rate": "auto", "global_batch_size": 8}
    summary, _ = learn(job(place, train=train), tmp_path, Rate(3e-3, "usual"))
    assert summary.learning_rate == 3e-3
    assert np.isnan(summary.trials[1].scores[0])


def test_steps_at_a_moved_word_table_learn_too(place, tmp_path):
    adversarial = {"type": "pgd", "epsilon": 0.5, "steps": 2}
    train = {"epochs": 12, "global_batch_size": 16, "max_length": 16, "adversarial": adversarial}
    summary, folder = learn(job(place, train={**train, "patience": None}), tmp_path)
    assert summary.tasks[0].test["accuracy"].value > 0.7
    curve = History.from_parquet(folder / "history.parquet").frame()
    assert "adversarial_loss" in set(curve.metric)
