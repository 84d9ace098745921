"""Evaluations beside training: the figures of the workers, none lost, none twice."""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from safetensors.torch import load_file

from orchestrator.cluster.processes import class_path, load_named
from orchestrator.errors import ConfigError, StageError
from orchestrator.pretraining.results import Interrupted
from orchestrator.pretraining.state import EVALUATIONS
from orchestrator.pretraining.worker import EXPORT, pretrain
from orchestrator.training.events import Notice

EVERY = ["train.eval_every_steps=2", "train.checkpoint_every_steps=2"]
BESIDE = [*EVERY, "train.eval_beside=true"]


@dataclass
class Errand:
    """A function in a thread."""

    future: object

    def ended(self, wait_s=0.0):
        return bool(wait([self.future], timeout=wait_s).done)

    def result(self, kind):
        try:
            return kind.model_validate_json(self.future.result())
        except ValueError as error:
            raise StageError(str(error)) from error

    def cancel(self):
        self.future.cancel()


class Threads:
    """Room for one more worker in this process; what crosses is JSON, as on a cluster."""

    def __init__(self, places=99, fails=False):
        self.places, self.fails, self.started = places, fails, []
        self._pool = ThreadPoolExecutor(1)

    def has_place(self, cluster):
        return len(self.started) < self.places

    def start(self, function, payload, cluster):
        self.started.append(payload.weights)
        text, kind = payload.model_dump_json(), class_path(payload)

        def call():
            if self.fails:
                raise ValueError("the node is gone")
            return load_named(function)(
                load_named(kind).model_validate_json(text)
            ).model_dump_json()

        return Errand(self._pool.submit(call))


class Slow(Threads):
    """A place whose process never begins."""

    def start(self, function, payload, cluster):
        self.started.append(payload.weights)
        return Never()


class Never:
    """An errand without end."""

    def ended(self, wait_s=0.0):
        return False

    def cancel(self):
        pass


def validation(folder):
    """Return the validation rows of a run's history, without their times."""
    rows = pd.read_parquet(folder / EXPORT / "history.parquet")
    rows = rows[rows.split == "validation"].sort_values(["step", "metric"])
    return rows[["step", "epoch", "metric", "value"]].reset_index(drop=True)


@pytest.fixture
def inline(alone, make_job, tmp_path):
    """A run whose workers evaluate: its validation rows and weights."""
    folder = tmp_path / "inline"
    pretrain(alone.within(folder), make_job(*EVERY, run_dir=folder))
    alone.events.clear()
    return validation(folder), load_file(folder / EXPORT / "model.safetensors")


def check_same(folder, inline):
    rows, weights = inline
    found = validation(folder)
    assert found[["step", "metric"]].equals(rows[["step", "metric"]])
    assert found.epoch.tolist() == rows.epoch.tolist()
    assert found.value.tolist() == pytest.approx(rows.value.tolist(), rel=1e-6)
    for name, values in load_file(folder / EXPORT / "model.safetensors").items():
        assert values.equal(weights[name])


@pytest.mark.parametrize(("places", "started"), [(99, {2, 4}), (1, {2}), (0, set())])
def test_figures_are_those_of_the_workers(alone, make_job, tmp_path, inline, places, started):
    folder, beside = tmp_path / "beside", Threads(places)
    summary = pretrain(
        replace(alone.within(folder), beside=beside), make_job(*BESIDE, run_dir=folder)
    )
    # The second one is made by the workers where the first one has not ended in time.
    assert {int(each[-8:]) for each in beside.started} <= started
    assert bool(beside.started) == bool(places)
    check_same(folder, inline)
    assert summary.step == 6
    assert not list((folder / EVALUATIONS).glob("step-????????"))


def test_without_a_cluster_the_workers_evaluate(alone, make_job, tmp_path, inline):
    folder = tmp_path / "beside"
    pretrain(alone.within(folder), make_job(*BESIDE, run_dir=folder))
    check_same(folder, inline)


def test_one_that_fails_is_made_again_and_named(alone, make_job, tmp_path, inline):
    folder = tmp_path / "beside"
    worker = replace(alone.within(folder), beside=Threads(1, fails=True))
    pretrain(worker, make_job(*BESIDE, run_dir=folder))
    (notice,) = [each for each in alone.events if isinstance(each, Notice)]
    assert "step 2 beside training failed: the node is gone" in notice.message
    check_same(folder, inline)


@pytest.mark.parametrize("resumed", [None, Threads()])
@pytest.mark.parametrize("first", [Threads(), Slow()])
def test_a_resumed_run_loses_none(alone, make_job, tmp_path, inline, first, resumed):
    folder = tmp_path / "beside"
    job, worker = make_job(*BESIDE, run_dir=folder), alone.within(folder)
    alone.stop_after.append(3)
    assert pretrain(replace(worker, beside=first), job) == Interrupted(step=4)
    alone.stop_after.clear()
    pretrain(replace(worker, beside=resumed), job)
    check_same(folder, inline)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.eval_every_steps=0", "needs evaluations"),
        ("train.early_stopping={patience: 2}", "early_stopping decides"),
        ("run.dir=s3://bucket/runs", "a folder that workers share"),
        ("guard={data: {source: builtin:pydoc}}", "the guard decides"),
    ],
)
def test_what_cannot_be_beside_is_refused(make_config, setting, message):
    with pytest.raises(ConfigError, match=message):
        make_config(*BESIDE, setting)
