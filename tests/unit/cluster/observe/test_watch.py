"""Display of unusual events by the driver."""

import math

from orchestrator.cluster.observe.tracking import Watched
from orchestrator.cluster.observe.watch import Watcher
from orchestrator.training.events import Measurement, RunStarted


def test_the_step_that_comes_next_is_said(tmp_path, caplog):
    caplog.set_level("INFO", logger="orchestrator")
    with Watcher("test", {"run": Watched(tmp_path, 9)}) as watcher:
        watcher.observe(RunStarted(run="run", step=4))
    assert "run: step 5 is the next" in caplog.messages


def test_an_interval_without_a_finite_loss_is_shown_and_ends_nothing(tmp_path, capsys):
    """A skipped step's loss is in no mean; the event then has none."""
    with Watcher("test", {"run": Watched(tmp_path, 4)}) as watcher:
        watcher.observe(RunStarted(run="run", step=0))
        metrics = {"skipped": 1.0, "tokens_per_second": 5.0, "grad_norm": math.nan}
        common = {"run": "run", "step": 3, "epoch": 0.0, "split": "train", "seconds": 1.0}
        watcher.observe(Measurement(metrics=metrics, **common))
    assert "step 3/4  loss nan" in capsys.readouterr().err


def test_an_evaluation_without_any_label_ends_nothing(tmp_path, capsys):
    with Watcher("test", {"run": Watched(tmp_path, 4)}) as watcher:
        watcher.observe(RunStarted(run="run", step=0))
        common = {"run": "run", "step": 4, "epoch": 0.0, "split": "validation", "seconds": 1.0}
        watcher.observe(Measurement(metrics={}, **common))
    assert "step 0/4" in capsys.readouterr().err
