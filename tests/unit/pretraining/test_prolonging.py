"""A finished run goes on to more steps, as if it had been as long from the beginning."""

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.cluster.checkpoints.store import CheckpointFolder
from orchestrator.config import JobResult
from orchestrator.errors import ConfigError
from orchestrator.pretraining import runner, window_sources
from orchestrator.pretraining.worker import EXPORT, pretrain
from orchestrator.storage.operations import fault_hook
from orchestrator.storage.run_state import RESULT_NAME
from orchestrator.training.events import RunStarted
from orchestrator.zoo import Zoo, committed

CONSTANT = ("train.schedule={type: constant, warmup_steps: 2}", "train.optimizer.average_decay=0.9")


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    """Measuring that of the CPU takes longer than the runs of this file."""
    monkeypatch.setattr(window_sources, "device_peak", lambda *_: 1e12)


def train(worker, config):
    """Run a job to its end without a cluster; return its result and the exported weights."""
    with runner.open_run(config) as run:
        work = runner._Work(config, run)
        work.recover()
        if run.finished() is None:
            summary = pretrain(worker.within(run.path), work.prepare())
            loaded = load_file(run.path / EXPORT / "model.safetensors")
            work.commit(summary)
            return work.result(), {name: value.numpy().tobytes() for name, value in loaded.items()}
        return work.result(), {}


def curve(config, reference):
    rows = Zoo(config.run.zoo).get(reference).history()
    exact = rows.metric.isin(("loss", "grad_norm", "learning_rate", "loss.mlm", "accuracy.mlm"))
    return rows[exact].set_index(["step", "split", "metric"]).value


@pytest.mark.parametrize(
    "schedule",
    [
        CONSTANT[0],
        pytest.param(
            "train.schedule={type: inverse_sqrt, warmup_steps: 2}", marks=pytest.mark.slow
        ),
        pytest.param(
            "train.schedule={type: infinite, warmup_steps: 1, cooldown_steps: 2}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_prolonged_run_is_one_that_was_as_long_from_the_beginning(alone, make_config, schedule):
    settings = (schedule, CONSTANT[1])
    short = make_config(*settings)
    first, early = train(alone, short)
    longer = make_config(*settings, "train.max_steps=9", "train.checkpoint_every_steps=4")
    second, late = train(alone, longer)
    assert (first.package, second.package) == ("tiny-model/v0001", "tiny-model/v0002")
    assert second.metrics["steps"] == 9
    alone.events.clear()
    whole, expected = train(alone, make_config(*settings, "run.name=whole", "train.max_steps=9"))
    assert late == expected != early
    mine, theirs = (curve(longer, result.package) for result in (second, whole))
    assert mine.equals(theirs)
    assert train(alone, longer)[0] == second  # finished again: it answers at once
    with pytest.raises(ConfigError, match="prolonged, never shortened"):
        train(alone, short)


REFUSED = [
    (["train.schedule.type=linear"], "the schedule linear depends on the length"),
    (["train.schedule={type: wsd, decay_steps: 2}"], "the schedule wsd depends on the length"),
    (
        ["train.schedule={type: infinite, decay_steps: 2, final_ratio: 0.1}"],
        "the schedule infinite with decay_steps depends",
    ),
    ([CONSTANT[0], "train.early_stopping={patience: 9}"], "train.early_stopping has ended the run"),
    ([CONSTANT[0], "train.keep_last=0"], "keeps no checkpoint"),
    ([CONSTANT[0], "train.flatness={last_fraction: 0.4}"], "train.flatness counts from the end"),
]


def finished(config, status="done"):
    """Make the folder of a run that is finished."""
    with runner.open_run(config) as run:
        (run.path / "checkpoints" / "step-00000003").mkdir(parents=True)
        CheckpointFolder(run.path / "checkpoints").clear(keep_last=config.train.keep_last)
        run.finish(JobResult(status=status, package="tiny-model/v0001"))
        return run.package_id


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_cannot_be_prolonged_is_refused_with_the_reason(make_config, settings, message):
    short = ("train.max_steps=3", "train.eval_every_steps=1", *settings)
    finished(make_config(*short))
    with pytest.raises(ConfigError, match=message) as refused:
        runner.open_run(make_config(*short, "train.max_steps=5"))
    assert [problem.path for problem in refused.value.problems] == ["train.max_steps"]
    assert "is 5 now, but the run has 3" in str(refused.value)
    assert "start_from={run: tiny}" in str(refused.value)
    with runner.open_run(make_config(*short)) as run:  # nothing was changed
        assert run.finished() is not None


def test_a_run_whose_package_was_refused_is_not_prolonged(make_config):
    finished(make_config(*CONSTANT), "refused")
    with pytest.raises(ConfigError, match="guard has ended the run"):
        runner.open_run(make_config(*CONSTANT, "train.max_steps=8"))


def test_a_run_that_is_not_finished_is_prolonged_as_well(alone, make_config):
    alone.stop_after.append(3)
    with runner.open_run(make_config(*CONSTANT)) as run:
        assert pretrain(alone.within(run.path), runner._Work(run.config, run).prepare()).stopped
    alone.stop_after.clear()
    alone.events.clear()
    longer = (*CONSTANT, "train.max_steps=9")
    result, weights = train(alone, make_config(*longer))
    assert result.package == "tiny-model/v0001"
    alone.events.clear()
    assert weights == train(alone, make_config(*longer, "run.name=whole"))[1]


def test_a_branch_starts_from_a_finished_run_that_kept_its_last_checkpoint(alone, make_config):
    train(alone, make_config(*CONSTANT))
    branch = make_config(
        "run.name=branch",
        "train.start_from={run: tiny}",
        "train.max_steps=8",
        "train.schedule={type: cosine}",
        "train.optimizer.average_decay=0.9",
    )
    assert train(alone, branch)[0].metrics["steps"] == 8


class Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_point_it_is_prolonged_when_it_is_started_again(make_config):
    short, longer = make_config(*CONSTANT), make_config(*CONSTANT, "train.max_steps=8")
    operations = killed_at(10_000, short, longer)
    assert operations > 4
    for point in range(operations):
        killed_at(point, short, longer)


def killed_at(point, *jobs):
    """Prolong a run and die before an operation, then start again; return how many there were."""
    section = jobs[0].run.model_copy(update={"name": f"run-{point}"})
    short, longer = (job.model_copy(update={"run": section}) for job in jobs)
    before = finished(short)
    count = killed_after(longer, point)
    with runner.open_run(longer) as run:
        assert run.finished() is None
        assert run.package_id.startswith(f"{before}-")
        assert committed(run, "tiny-model") is None
        assert "max_steps: 8" in (run.path / "job.yaml").read_text()
    return count


def killed_after(config, point):
    """Open a run and die before an operation; return how many there were."""
    count = 0

    def hook(operation, path):
        nonlocal count
        if count == point:
            raise Killed
        count += 1

    try:
        with fault_hook(hook):
            runner.open_run(config).close()
    except Killed:
        pass
    return count


def test_settings_of_a_finished_run_have_no_effect_and_that_is_said(alone, make_config, caplog):
    result = train(alone, make_config(*CONSTANT))[0]
    changed = make_config(*CONSTANT, "package.licence=MIT", "run.zoo=elsewhere")
    with runner.open_run(changed) as run:
        assert run.finished() == result
    assert "run 'tiny' is finished; without effect are now: package.licence" in caplog.text


def test_an_export_that_was_left_is_not_the_result_of_the_prolonged_run(alone, make_config):
    """As by a driver that was killed after it recorded the result."""
    config = make_config(*CONSTANT)
    with runner.open_run(config) as run:
        work = runner._Work(config, run)
        summary = pretrain(alone.within(run.path), work.prepare())
        work.commit(summary)
        (run.path / EXPORT).mkdir()
        (run.path / EXPORT / "summary.json").write_text(summary.model_dump_json())
    assert (run.path / RESULT_NAME).exists()
    with runner.open_run(make_config(*CONSTANT, "train.max_steps=8")) as run:
        assert not (run.path / EXPORT).exists()
        assert run.finished() is None


QUIET = ("model.embedding.dropout=0", "model.encoder.dropout=0")
CHANGED = [
    ("train.log_every_steps=4", "train.eval_every_steps=2", "train.checkpoint_every_steps=1"),
    ("train.eval_batch_size=3", "train.eval_blocks=5", "train.prefetch_steps=3"),
    ("train.keep_every_steps=2", "train.keep_last=0", "tracking.tensorboard=false"),
    ("train.max_skipped_steps=0", "train.max_rollbacks=0", "train.hang_timeout_s=600"),
    ("package.licence=MIT", "package.name=another", "engine.peak_tflops=3"),
    ("engine.activation_checkpointing=true",),
]


@pytest.mark.slow
def test_changes_that_decide_nothing_change_no_weight(alone, make_config):
    """Bit by bit, with dropout; without it, also in other micro-batches, up to rounding."""
    expected = train(alone, make_config("run.name=whole"))[1]
    quiet = load(train(alone, make_config(*QUIET, "run.name=whole-quiet"))[1])
    for number, changes in enumerate(CHANGED):
        assert resumed(alone, make_config, (f"run.name=r{number}",), changes) == expected, changes
    smaller = ("train.micro_batch_size=2",)
    found = load(resumed(alone, make_config, (*QUIET, "run.name=smaller"), smaller))
    assert found.keys() == quiet.keys()
    assert all(torch.allclose(found[name], quiet[name], atol=1e-5) for name in quiet)


def resumed(worker, make_config, settings, changes):
    """Train half of the steps, then the others with changes; return the weights."""
    worker.events.clear()
    worker.stop_after.append(3)
    with runner.open_run(make_config(*settings)) as run:
        assert pretrain(worker.within(run.path), runner._Work(run.config, run).prepare()).stopped
    worker.stop_after.clear()
    worker.events.clear()
    weights = train(worker, make_config(*settings, *changes))[1]
    (start,) = [event for event in worker.events if isinstance(event, RunStarted)]
    assert start.step == 4
    assert start.message.startswith("resuming at step 4 from ")
    return weights


def load(weights):
    return {
        name: torch.frombuffer(bytearray(raw), dtype=torch.float32) for name, raw in weights.items()
    }
