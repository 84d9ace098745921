"""One MLflow run for one run of ours, however often that is killed and continued."""

import shutil

import pytest

from orchestrator.pretraining import runner
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.training.events import Measurement, RunStarted

pytest.importorskip("mlflow", reason="MLflow is the extra `tracking`")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database, which takes seconds to make."""
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture
def attempt(alone, make_config, store):
    """Run the job as far as it gets, telling MLflow of it; return its work."""
    config = make_config(
        f"tracking={{tensorboard: false, mlflow: {{tracking_uri: 'sqlite:///{store}'}}}}"
    )

    def go():
        alone.events.clear()
        work = runner._Work(config, RunFolder.open(config, runner.STAGE))
        job = work.prepare()
        (tracker,) = work.watched().trackers()
        summary = pretrain(alone.within(work.run.path), job)
        for event in alone.events:
            if isinstance(event, RunStarted):
                tracker.resume(event.step)
            elif isinstance(event, Measurement):
                tracker.observe(event)
        tracker.close()
        work.run.close()
        return work, summary

    return go


def test_a_killed_and_continued_run_is_one_run_there(attempt, alone):
    alone.stop_after.append(4)
    killed, _ = attempt()
    shutil.rmtree(killed.run.path / "checkpoints" / "step-00000005")  # killed before it was there
    alone.stop_after.clear()
    work, summary = attempt()
    assert work.mlflow.id == killed.mlflow.id
    client = work.mlflow._client
    before = client.get_run(work.mlflow.id)
    assert before.info.status == "RUNNING"
    work.commit(summary)

    (found,) = client.search_runs([before.info.experiment_id])  # one, not two
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "tiny"
    assert found.data.tags["orchestrator.package"] == "tiny-model/v0001"
    assert found.data.params["train.max_steps"] == "6"
    assert found.data.params["model.target.0.type"] == "mlm"
    losses = client.get_metric_history(work.mlflow.id, "train/loss")
    assert [each.step for each in losses] == [1, 2, 3, 4, 5, 6]
    assert {"train/mfu", "train/data_wait_share", "validation/loss"} <= set(found.data.metrics)


def test_a_server_that_is_gone_costs_a_warning(attempt, caplog, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_args, **options):
        if "metrics" in options:
            raise MlflowException("gone")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    _, summary = attempt()
    assert summary.step == 6
    assert [r.message for r in caplog.records].count(
        "MLflow did not take values, training goes on: gone"
    ) == 1
