"""Grid search without a cluster: trials, what they commit, and which one is the best."""

import json
import shutil

import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError, StageError
from orchestrator.finetuning.config import FinetuneConfig, SearchSection
from orchestrator.finetuning.grid import (
    TRAINER,
    GridPayload,
    GridTrial,
    combinations,
    committed,
    decide,
    is_over,
    state_folder,
    trial_name,
    with_values,
)
from orchestrator.finetuning.inputs import resolve
from orchestrator.finetuning.plan import describe
from orchestrator.finetuning.results import EpochScore, GridResult, GridValues
from orchestrator.storage.json_files import json_bytes, parse_model
from orchestrator.zoo import Zoo
from tests.support.lessons import job, planned
from tests.support.streams import make_place

SEARCH = {"learning_rate": [3e-3, 1e-2], "epochs": [2, 3]}
TRAIN = {"global_batch_size": 16, "max_length": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("grid"), dropout=0.1)


def payload(place, state, values, **train):
    config = job(place, train={**TRAIN, "patience": None, **train}, search=SEARCH)
    found = planned(with_values(config, values), state)
    rate = {"learning_rate": values.learning_rate}
    return GridPayload(job=found.model_copy(update=rate), state=str(state), gpus=0.0)


def trained(trial):
    rows = []
    while not trial.done:
        rows.append(trial.step())
    return rows


def same(rows):
    return [row.model_copy(update={"seconds": 0.0}) for row in rows]


VALUES = GridValues(learning_rate=1e-2, global_batch_size=16, epochs=3)


def test_a_trial_that_was_killed_goes_on_as_if_it_had_not_been(place, tmp_path):
    whole = trained(GridTrial(payload(place, tmp_path / "whole", VALUES)))
    assert len(whole) == 3
    assert not (tmp_path / "whole" / TRAINER).exists()  # nothing will go on from it
    cut = payload(place, tmp_path / "cut", VALUES)
    first = GridTrial(cut)
    first.step()
    first.step()  # and then its process dies
    again = GridTrial(cut)
    assert same(trained(again)) == same(whole) == same(committed(tmp_path / "cut"))
    shutil.rmtree(tmp_path / "cut" / TRAINER, ignore_errors=True)
    assert same(trained(GridTrial(cut))) == same(whole)  # all of it is committed


def test_a_paused_trial_goes_on_in_another_process(place, tmp_path):
    trial = GridTrial(payload(place, tmp_path / "state", VALUES))
    trial.step()
    (tmp_path / "pause").mkdir()
    trial.save(tmp_path / "pause")
    other = GridTrial(payload(place, tmp_path / "state", VALUES))
    other.load(tmp_path / "pause")
    assert len(trained(other)) == 2


def score(value, higher=True, loss=1.0):
    return EpochScore(value=value, loss=loss, higher_is_better=higher, steps=4, seconds=0.1)


def test_a_trial_ends_without_a_gain(place):
    config = job(place, train=TRAIN | {"epochs": 9, "patience": 2, "min_gain": 0.1})
    rising = [score(value) for value in (0.1, 0.3, 0.35, 0.38)]
    assert not is_over(rising[:3], config)
    assert is_over(rising, config)
    falling = [score(value, higher=False) for value in (9.0, 7.0, 5.0, 3.0)]
    assert not is_over(falling, config)
    assert is_over([score(float("nan"))] * 2, config)


def of(rate, batch=16, epochs=2):
    return GridValues(learning_rate=rate, global_batch_size=batch, epochs=epochs)


def test_the_best_epoch_decides_then_the_loss_then_the_cost():
    trials = {"a": of(1e-3), "b": of(1e-2), "c": of(1e-1), "d": of(1.0), "e": of(2.0)}
    scores = {
        "a": [score(0.5), score(0.7, loss=0.9)],
        "b": [score(0.8, loss=0.6), score(0.2)],
        "c": [score(0.8, loss=0.5)],
        "d": [score(float("nan"), loss=float("nan"))],
        "e": [],
    }
    ranked = decide(trials, scores, {"e": "out of memory"})
    assert [each.values.learning_rate for each in ranked] == [1e-1, 1e-2, 1e-3, 2.0, 1.0]
    assert (ranked[0].steps, ranked[2].scores, ranked[3].error) == (4, (0.5, 0.7), "out of memory")
    stored = json.loads(json_bytes(GridResult(trials=ranked)))  # a run's marks have no NaN
    assert parse_model(stored, GridResult, "test").trials[0] == ranked[0]
    lower = {name: [score(0.1 if name == "a" else 0.4, higher=False)] for name in trials}
    assert decide(trials, lower, {})[0].values == of(1e-3)
    with pytest.raises(StageError, match="no trial has a score"):
        decide({"d": of(1.0)}, {"d": scores["d"]}, {})


def test_values_that_are_not_searched_are_the_jobs(place):
    config = job(place, train=TRAIN, search=SEARCH)
    tried = combinations(config.search, config, 5e-3)
    assert tried == [of(3e-3, epochs=2), of(3e-3, epochs=3), of(1e-2), of(1e-2, epochs=3)]
    names = [trial_name(values, config.search) for values in tried]
    assert names[1] == "learning_rate=0.003,epochs=3"
    assert len({state_folder(place, name) for name in names}) == 4
    only = SearchSection(epochs=(2, 4))
    assert combinations(only, config, 5e-3)[1] == of(5e-3, epochs=4)
    text = describe(resolve(config, Zoo(place / "zoo").get("encoder")))
    assert "4 trials (learning_rate [0.003, 0.01] × epochs [2, 3]) of 10 epochs" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.learning_rate=[1e-3]"], "search: tries one value"),
        (["search.epochs=[2,3,2]"], r"search\.epochs: has a value twice"),
        (["search.epochs=[2,3]", "train.epochs=4"], r"search\.epochs: is given beside train"),
        (
            ["search.learning_rate=[1e-3,1e-2]", "train.learning_rate=auto"],
            r"search\.learning_rate: is given beside train\.learning_rate",
        ),
        (["search.epochs=[2,3]", "train.learning_rate=auto"], r"train\.learning_rate: is auto"),
        (
            ["search.global_batch_size=[16,17]", "cluster.workers=2"],
            r"search\.global_batch_size: 17 does not divide",
        ),
        (["search.epochs=[1,2,3,4,5,6,7,8,9]", f"search.learning_rate={[0.1] * 9}"], "81 comb"),
        (["search={rate: [1, 2]}"], r"search\.rate"),
    ],
)
def test_searches_that_are_refused(overrides, message):
    base = ["package=minilm", "output=spam", "data.source=files:mails.csv"]
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, [*base, *overrides])
