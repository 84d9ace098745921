"""Early stopping, the best weights, and going around data after which nothing is finite."""

import math

import pandas as pd
import pytest
from safetensors.torch import load_file

from orchestrator.cluster.checkpoints.store import CheckpointFolder
from orchestrator.data.steps import StepSource
from orchestrator.errors import StageError
from orchestrator.pretraining.window_sources import Detour
from orchestrator.pretraining.worker import EXPORT, _Run, pretrain
from orchestrator.training.config import EarlyStoppingConfig, TrainConfig
from orchestrator.training.early_stopping import FOLDER as BEST
from orchestrator.training.early_stopping import best_of
from orchestrator.training.engines import on_device
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.events import RolledBack
from orchestrator.training.metrics import StepMetrics

from .test_worker import weights

STOPPING = ["train.max_steps=30", "train.early_stopping={patience: 2, min_delta: 100}"]


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("loss", [3.0, 2.0, 2.5, 2.0], (1, 2)),
        ("loss.mlm", [3.0, 2.9, 2.85], (1, 1)),
        ("accuracy.mlm", [0.1, 0.5, 0.4], (1, 1)),
        ("loss", [], (-1, 0)),
        ("loss", [1.0], (0, 0)),
        ("loss", [math.nan, 3.0, 2.0, math.nan], (2, 1)),
        ("loss", [math.nan, math.nan], (0, 1)),
    ],
)
def test_the_best_is_the_first_that_nothing_beats_by_enough(metric, values, expected):
    config = EarlyStoppingConfig(metric=metric, min_delta=0.06)
    best = best_of(enumerate(values), config)
    assert (best.step, best.since) == expected


def test_a_run_that_gets_no_better_ends_with_its_best_weights(alone, make_job, tmp_path):
    folder = tmp_path / "early"
    summary = pretrain(alone.within(folder), make_job(*STOPPING, run_dir=folder))
    assert summary.step == 3  # nothing later gained 100
    history = pd.read_parquet(folder / EXPORT / "history.parquet")
    curve = history[(history.split == "validation") & (history.metric == "loss")]
    assert list(curve.step) == [3, 6, 9]
    assert summary.validation["loss"] == curve.value.iloc[0]
    assert not summary.stopped


def test_damaged_best_weights_do_not_cost_the_last_ones(alone, make_job, tmp_path, monkeypatch):
    whole = CheckpointFolder.newest_valid

    def none_of_the_best(folder, group, require):
        return None if BEST in folder.root.parts else whole(folder, group, require)

    monkeypatch.setattr(CheckpointFolder, "newest_valid", none_of_the_best)
    folder = tmp_path / "early"
    summary = pretrain(alone.within(folder), make_job(*STOPPING, run_dir=folder))
    assert summary.step == 9  # where it stopped, not 3, where it was best
    assert weights(folder / EXPORT)


def test_an_interrupted_run_stops_where_the_whole_one_does(alone, make_job, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = pretrain(alone.within(whole), make_job(*STOPPING, run_dir=whole))
    job = make_job(*STOPPING, run_dir=parts)
    for step in (2, 4, 8):
        alone.events.clear()
        alone.stop_after[:] = [step]
        assert pretrain(alone.within(parts), job).stopped
    alone.events.clear()
    alone.stop_after.clear()
    summary = pretrain(alone.within(parts), job)
    assert summary.step == expected.step
    assert weights(parts / EXPORT) == weights(whole / EXPORT)


def test_early_stopping_needs_evaluations():
    (problem,) = TrainConfig(early_stopping={}).problems()
    assert problem.path == "early_stopping"


@pytest.fixture
def poison(monkeypatch):
    """Make the loss of certain steps of the source infinite; what was read is recorded."""
    bad, read = set(), []
    window, passes = StepSource.window, SingleEngine.forward_backward

    def reading(source, step, rank=0, world=1):
        read.append(step)
        return window(source, step, rank, world)

    def measuring(engine, micro_batches, extra=None):
        metrics = passes(engine, micro_batches, extra)
        return StepMetrics(metrics, {"loss": math.inf}) if read[-1] in bad else metrics

    monkeypatch.setattr(StepSource, "window", reading)
    monkeypatch.setattr(SingleEngine, "forward_backward", measuring)
    return bad, read


ONE_BY_ONE = "train.prefetch_steps=0"  # what was read last is what is trained on
INTERVALS = {"log": 8, "checkpoint": 4, "eval": 0}
GUARDED = ["train.max_skipped_steps=1", "train.max_rollbacks=1", ONE_BY_ONE]


def test_bad_data_is_gone_around_from_the_last_checkpoint(alone, make_job, tmp_path, poison):
    bad, read = poison
    bad |= {4, 5}
    folder = tmp_path / "run"
    summary = pretrain(alone.within(folder), make_job(*GUARDED, run_dir=folder))
    assert read == [0, 1, 2, 3, 4, 5, 6, 7]
    assert summary.step == 6
    assert summary.rollbacks == 1
    (event,) = [each for each in alone.events if isinstance(each, RolledBack)]
    assert event.step == 4
    assert "samples [" in event.message
    trained = [each.metrics for each in alone.events if getattr(each, "split", "") == "train"]
    assert [each["tokens"] for each in trained] == [trained[0]["tokens"]] * len(trained)
    assert max(each["tokens_per_second"] for each in trained) < 1e8  # the clock begins anew


def test_bad_data_is_gone_around_however_late_the_host_hears_of_it(
    alone, make_job, tmp_path, poison, monkeypatch
):
    """Steps that followed are undone: weights and curve are those of a host that knew at once."""
    bad, read = poison
    bad |= {4, 5}
    found, steps = [], []
    for place in ("host", "device"):
        if place == "device":
            monkeypatch.setattr(on_device, "reads_wait", lambda device: True)
        read.clear()
        folder = tmp_path / place
        every = [f"train.{what}_every_steps={n}" for what, n in INTERVALS.items()]
        job = make_job(*GUARDED, *every, "train.max_steps=8", run_dir=folder)
        summary = pretrain(alone.within(folder), job)
        found.append((summary.step, summary.rollbacks, weights(folder / EXPORT)))
        steps.append(list(read))
    assert found[0] == found[1]
    assert steps == [list(range(10)), [*range(8), *range(6, 10)]]  # it had gone on
    events = [each.message for each in alone.events if isinstance(each, RolledBack)]
    assert len(events) == 2
    assert events[0] == events[1]


def test_after_too_many_rollbacks_the_run_fails_with_the_samples(alone, make_job, tmp_path, poison):
    bad, read = poison
    bad |= set(range(4, 1000))
    folder = tmp_path / "run"
    with pytest.raises(StageError, match=r"not finite.*it read samples \[\d+, "):
        pretrain(alone.within(folder), make_job(*GUARDED, run_dir=folder))
    assert len(read) == 8
    assert not (folder / EXPORT).exists()


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(alone, make_job, tmp_path, poison):
    bad, _ = poison
    bad |= {0, 1}
    folder = tmp_path / "run"
    with pytest.raises(StageError, match="Step 0 was the first of them"):
        pretrain(alone.within(folder), make_job(*GUARDED, run_dir=folder))


def test_the_weights_at_the_end_are_those_that_were_measured_as_the_best(
    alone, make_job, tmp_path, poison, monkeypatch
):
    """The run goes back before its best evaluations, and from there on gets no better."""
    bad, _ = poison
    bad |= {5, 6}
    losses, seen = iter([10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 20.0, 20.0]), {}

    def measured(run):
        loss = next(losses)
        seen.setdefault(loss, [value.clone() for _, value in run.engine.state_dict()])
        return {"loss": loss, "accuracy.mlm": 0.0}

    monkeypatch.setattr(_Run, "_evaluate", measured)
    folder = tmp_path / "run"
    intervals = ["train.max_steps=30", "train.eval_every_steps=1", "train.checkpoint_every_steps=4"]
    stopping = "train.early_stopping={patience: 2}"
    job = make_job(*GUARDED, *intervals, stopping, run_dir=folder)
    summary = pretrain(alone.within(folder), job)
    assert (summary.step, summary.validation["loss"]) == (6, 5.0)
    kept = load_file(folder / EXPORT / "model.safetensors")
    sums = [sorted(v.sum().item() for v in each) for each in (kept.values(), seen[5.0])]
    assert sums[0] == sums[1]


def test_jumps_add_up_and_never_read_a_step_twice():
    detour = Detour(None, [[4, 2]])
    detour.around(7, 8)
    read = [detour.actual(step) for step in range(12)]
    assert read == [0, 1, 2, 3, 6, 7, 8, 11, 12, 13, 14, 15]
    assert len(set(read)) == len(read)
    detour.around(2, 9)  # the checkpoint of step 7 was damaged
    assert detour.actual(2) == 14
