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


def started(scheduler, trials):
    """The trial that Tune would start next, now running."""
    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=lambda trial: None)
    chosen = scheduler.choose_trial_to_run(controller)
    if chosen is None:
        return None
    chosen.status = Trial.RUNNING
    return chosen.config["trial"]


def ended(scheduler, trials, model, rung, score):
    """Report a rung of a trial, which Tune then pauses or lets go on."""
    trial = next(t for t in trials if t.config["trial"] == model)
    row = EpochResult(trial=model, rung=rung, validation=score)
    decision = scheduler.on_trial_result(None, trial, {EPOCH_RESULT: row.model_dump_json()})
    trial.status = Trial.RUNNING if decision == scheduler.CONTINUE else Trial.PAUSED
    return trial.status


def test_the_longest_trials_of_a_rung_start_first(tmp_path, monkeypatch):
    """Also the one that closed the rung before does not go on ahead of them."""
    monkeypatch.setattr(scheduling, "is_busy", lambda slots: True)
    bracket = Bracket(("a", "b", "c", "d", "e", "f", "g", "h"), 3, Halving())
    seconds = {"a": 1, "b": 9, "c": 2, "d": 8, "e": 3, "f": 7, "g": None, "h": 4}.get
    source = TrialSource(
        lambda: bracket, lambda m: NewTrial(m, TRIAL, payload_of(m)), seconds=seconds
    )
    scheduler = HalvingScheduler(source, Journal(tmp_path / "rows.jsonl"), slots=2)
    trials = [staged(new.name) for new in iter(scheduler.next_trial, None)]
    assert [t.config["trial"] for t in trials] == ["b", "d", "f", "h", "e", "c", "a", "g"]
    scores = dict(zip("acehbdfg", range(8, 0, -1), strict=True))
    assert started(scheduler, trials) == "b"
    for model in ("d", "f", "h", "e", "c", "g", "b", "a"):
        found = ended(scheduler, trials, model, 1, scores[model]) if model != "a" else None
        assert found in (None, Trial.PAUSED)
        if found:
            started(scheduler, trials)
    assert ended(scheduler, trials, "a", 1, scores["a"]) == Trial.PAUSED  # h, e are longer
    assert bracket.rung == 2
    assert [started(scheduler, trials) for _ in range(5)] == ["h", "e", "c", "a", None]


@pytest.mark.parametrize("busy", [False, True])
def test_idle_slots_are_lent_to_trials_that_still_train(busy, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "is_busy", lambda slots: busy)
    loans = []
    monkeypatch.setattr(scheduling, "lend", lambda *loan: loans.append(loan))
    bracket = Bracket(("a", "b", "c", "d"), 3, Halving())
    source = TrialSource(lambda: bracket, lambda m: NewTrial(m, TRIAL, payload_of(m)))
    scheduler = HalvingScheduler(source, Journal(tmp_path / "rows.jsonl"), slots=4)
    trials = [staged(new.name) for new in iter(scheduler.next_trial, None)]
    while started(scheduler, trials):
        pass
    assert loans == []  # each slot has a trial
    ended(scheduler, trials, "a", 1, 0.9)
    ended(scheduler, trials, "b", 1, 0.8)
    for _ in range(3):
        assert started(scheduler, trials) is None
    assert loans == ([] if busy else [("c", 1, 2), ("d", 1, 2)])
    ended(scheduler, trials, "c", 1, 0.7)
    assert started(scheduler, trials) is None
    assert loans[2:] == ([] if busy else [("d", 1, 4)])
