"""Slots that survivors share, as the Tune scheduler hands them out; without a cluster."""

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial

from orchestrator.data.spec import DatasetSpec
from orchestrator.selection.halving import Bracket
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.results import EpochResult
from orchestrator.selection.trials import scheduler as scheduling
from orchestrator.selection.trials.fine_tuning import TRIAL, TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.scheduler import HalvingScheduler
from orchestrator.selection.trials.source import TrialSource
from orchestrator.training.config import FineTuneConfig
from orchestrator.training.events import EPOCH_RESULT, NewTrial


def payload_of(model):
    return TrialPayload(
        trial=model,
        package=model,
        zoo="zoo",
        task=DatasetSpec(source="builtin:pydoc/library"),
        fine_tune=FineTuneConfig(epochs=3),
        seed=0,
        state=model,
    )


def staged(model):
    payload = payload_of(model).model_dump_json()
    config = {"trial": model, "target": TRIAL, "payload": payload}
    return SimpleNamespace(status=Trial.PENDING, config=config)


@pytest.mark.parametrize(("busy", "slots"), [(False, 4), (True, 1)])
def test_the_last_survivor_gets_all_slots_of_a_host_that_is_not_busy(
    busy, slots, tmp_path, monkeypatch
):
    monkeypatch.setattr(scheduling, "is_busy", lambda slots: busy)
    bracket = Bracket(("a", "b", "c", "d"), 3, Halving())
    source = TrialSource(lambda: bracket, lambda m: NewTrial(m, TRIAL, payload_of(m)))
    scheduler = HalvingScheduler(source, Journal(tmp_path / "rows.jsonl"), slots=4)
    trials = [staged(model) for model in bracket.pool]
    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=lambda trial: None)
    given = []
    for rung in (1, 2, 3):
        for trial in [t for t in trials if t.config["trial"] in bracket.pool]:
            if trial.status in (Trial.PENDING, Trial.PAUSED):
                assert scheduler.choose_trial_to_run(controller) is trial
            trial.status = Trial.RUNNING
            given.append(TrialPayload.model_validate_json(trial.config["payload"]).slots)
            name = trial.config["trial"]
            row = EpochResult(trial=name, rung=rung, validation=1 - trials.index(trial) / 10)
            scheduler.on_trial_result(controller, trial, {EPOCH_RESULT: row.model_dump_json()})
            trial.status = Trial.PAUSED
    assert scheduler.error is None
    assert bracket.winner == "a"
    assert given == [1, 1, 1, 1, *([2, 2] if not busy else [1, 1]), slots]
