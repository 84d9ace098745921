"""Events, intervals, stopping and the loss guard."""

import math

import pytest
import torch

from orchestrator.errors import InputError, StageError
from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.descent import descend, plain_step
from orchestrator.training.engines.engine import clip_gradients, global_norm, part_of
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.events import Measurement
from orchestrator.training.history import History
from orchestrator.training.learning_rates import learning_rate
from orchestrator.training.loop import Hooks, train
from tests.unit.training.toy_model import ToyModel, ToySource


def config(**changes):
    sizes = {"global_batch_size": 8, "micro_batch_size": 8}
    return TrainConfig(**{"max_steps": 10, **sizes, "log_every_steps": 4, **changes})


def engine():
    return SingleEngine(ToyModel(), OptimizerConfig())


def test_intervals_of_logging_evaluation_and_saving():
    events, saved = [], []
    settings = config(eval_every_steps=5, checkpoint_every_steps=3)
    evaluate = lambda: {"loss": 1.5}  # noqa: E731
    result = train(
        engine(),
        ToySource(),
        settings,
        hooks=Hooks(observer=events.append, evaluate=evaluate, save=saved.append),
    )
    assert [e.step for e in events if e.split == "train"] == [4, 8, 10]
    assert [e.step for e in events if e.split == "validation"] == [5, 10]
    assert saved == [3, 6, 9, 10]
    assert result.steps == 10
    assert not result.stopped
    assert result.validation == {"loss": 1.5}
    assert events[0].epoch == 0.4
    assert events[0].metrics["learning_rate"] == pytest.approx(1e-3 * (10 + 9 + 8 + 7) / 40)


def test_stopping_logs_and_saves_the_step_it_stops_at():
    """And does not evaluate before: a signal leaves half a minute."""
    steps, saved = [], []
    answers = iter([False, False, True])
    result = train(
        engine(),
        ToySource(),
        config(),
        hooks=Hooks(
            observer=lambda e: steps.append(e.step),
            evaluate=lambda: pytest.fail("the checkpoint must come first"),
            save=saved.append,
            should_stop=lambda: next(answers),
        ),
    )
    assert result.stopped
    assert (result.steps, steps, saved) == (3, [3], [3])


class Poison(ToySource):
    """Labels of chosen steps make the loss infinite: gain becomes nan through the model."""

    def __init__(self, engine, steps):
        super().__init__()
        self.engine, self.steps = engine, steps

    def window(self, step, rank, world):
        self.engine.module.encoder.offset.fill_(math.nan if step in self.steps else 0.5)
        return super().window(step, rank, world)


def test_a_non_finite_step_changes_nothing_and_is_counted():
    one, two = engine(), engine()
    result = train(one, Poison(one, {0, 1}), config(max_steps=2))
    assert result.skipped == 2
    fresh = dict(two.state_dict())
    for name, tensor in one.gathered().items():
        assert torch.equal(tensor, fresh[name])
    assert one.optimizer.state == {}


def test_too_many_non_finite_steps_fail_naming_the_step():
    one = engine()
    with pytest.raises(StageError, match=r"step 5: loss nan.*3 steps in a row"):
        train(one, Poison(one, {1, 3, 4, 5}), config(max_skipped_steps=2))


class Unlabelled(ToySource):
    """Some steps read samples that were found to have nothing to predict."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def window(self, step, rank, world):
        window = super().window(step, rank, world)
        if step not in self.steps:
            return window
        blank = torch.full_like
        return [{k: blank(v, -100) if "labels" in k else v for k, v in b.items()} for b in window]


def test_a_step_without_any_label_is_skipped_and_ends_nothing():
    """The same samples would be met again whenever the run went on."""
    one, two = engine(), engine()
    result = train(one, Unlabelled({0, 2, 3}), config(max_steps=5, max_skipped_steps=2))
    assert (result.steps, result.skipped) == (5, 3)
    assert result.train["skipped"] == 0  # of the last interval
    for step in (1, 4):
        metrics = two.forward_backward(ToySource().window(step, 0, 1))
        descend(two, metrics, learning_rate(config(max_steps=5), step), max_grad_norm=1.0)
    other = two.gathered()
    for name, tensor in one.gathered().items():
        assert torch.equal(tensor, other[name])


def test_too_many_steps_without_a_label_are_an_error():
    with pytest.raises(InputError, match="no label"):
        train(engine(), Unlabelled({1, 2, 3}), config(max_skipped_steps=2))


def test_clipping_equals_torch():
    ours, theirs = engine(), ToyModel()
    window = ToySource().window(0, 0, 1)
    ours.forward_backward(window)
    other = SingleEngine(theirs, OptimizerConfig())
    other.forward_backward(window)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
    assert clip_gradients(ours, 0.05) == pytest.approx(float(expected), rel=1e-5)
    for a, b in zip(ours.shards(), other.shards(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-9)


def test_norm_without_shards_is_zero():
    assert global_norm(engine(), []) == 0.0


def test_gradient_before_any_pass_is_an_error():
    with pytest.raises(StageError, match="run forward_backward"):
        clip_gradients(engine(), 1.0)


def test_part_of_a_full_tensor():
    one = engine()
    shard = next(s for s in one.shards() if s.name == "encoder.inner.weight")
    shard.start, shard.master = 5, shard.master[:4]
    full = {"encoder.inner.weight": torch.arange(17 * 12).reshape(17, 12)}
    assert part_of(full, shard).tolist() == [5, 6, 7, 8]


def test_plain_step_reports_norm_and_rate():
    metrics = plain_step(None)(engine(), ToySource().window(0, 0, 1), 0.5)
    assert metrics["learning_rate"] == 0.5
    assert metrics["grad_norm"] > 0
    assert metrics["skipped"] == 0


def test_history_round_trip(tmp_path):
    history = History()
    event = Measurement(step=2, epoch=0.5, split="train", metrics={"loss": 3.0}, seconds=1.0)
    history.observe(event)
    history.log(4, "validation", {"loss": 2.0, "accuracy": 0.5}, epoch=1.0)
    history.to_parquet(tmp_path / "history.parquet")
    again = History.from_parquet(tmp_path / "history.parquet")
    assert again.frame().equals(history.frame())
    assert list(again.frame().columns) == ["step", "epoch", "split", "metric", "value", "seconds"]
    again.log(3, "train", {"loss": 1.0})
    assert again.frame()["seconds"].is_monotonic_increasing
