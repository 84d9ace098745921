"""Learning rates tried in the first epoch, without Ray."""

import time

import pytest

from orchestrator.errors import ConfigError
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.costs.accounting import _chosen_steps
from orchestrator.selection.halving import fit_to_budget
from orchestrator.selection.planning import describe_selection, plan_selection
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.trials import rates, starting
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.rates import extra_epochs, steps_of_a_rate
from tests.support.candidates import FINE_TUNE, TARGET, make_world, select_job, spec

RATES = (1e-6, 5e-3, 1e-5)
OPEN = {**FINE_TUNE, "learning_rate": None}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), encoders=("bert",))


def payload(world, state, **changes):
    fields = {"trial": "bert/v0001", "package": "bert/v0001", "zoo": str(world / "zoo")}
    fields |= {"task": spec(world, TARGET), "fine_tune": OPEN, "seed": 3, "state": str(state)}
    return TrialPayload.model_validate({**fields, "learning_rates": RATES, **changes})


def test_the_best_rate_goes_on_from_its_own_state(world, tmp_path):
    row = FineTuneTrial(payload(world, tmp_path / "state")).step()
    assert [each.learning_rate for each in row.rates] == list(RATES)
    assert {(each.phase, each.rung) for each in row.rates} == {("learning rate", 1)}
    best = max(row.rates, key=lambda each: each.validation)
    assert row.learning_rate == best.learning_rate
    alone = {**FINE_TUNE, "learning_rate": row.learning_rate}
    plain = payload(world, tmp_path / "plain", fine_tune=alone, learning_rates=())
    whole = FineTuneTrial(plain).step()
    assert (row.validation, row.loss) == (whole.validation, whole.loss)
    share = steps_of_a_rate(whole.steps)
    assert [each.steps for each in row.rates] == [share] * 3
    assert row.steps + share == whole.steps
    journal = [each.model_copy(update={}) for each in (*row.rates, row.journal_row())]
    assert row.steps + _chosen_steps(row.journal_row(), journal) == whole.steps
    assert not list(tmp_path.glob("*~rates"))
    again = FineTuneTrial(payload(world, tmp_path / "state", start=1)).step()
    assert (again.rung, again.learning_rate, again.rates) == (2, row.learning_rate, ())


def test_start_up_is_counted_once_and_the_way_back_to_the_best_rate_too(
    world, tmp_path, monkeypatch
):
    monkeypatch.setattr(starting.clock, "_uncounted_since", time.perf_counter() - 100.0)
    begun = time.perf_counter()
    row = FineTuneTrial(payload(world, tmp_path / "state")).step()
    passed = time.perf_counter() - begun
    assert row.learning_rate == RATES[1], "the last one is not at hand"
    first, *others = row.rates
    assert 100.0 < first.startup_s < 100.0 + passed
    assert row.startup_s > 0
    counted = sum(each.seconds + each.startup_s for each in (*others, row)) + first.seconds
    assert counted < passed


def test_a_killed_trial_tries_no_rate_twice(world, tmp_path, monkeypatch):
    trained, train = [], rates.RateTrials._train

    def count(self, rate):
        trained.append(rate)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(self, rate)

    monkeypatch.setattr(rates.RateTrials, "_train", count)
    with pytest.raises(KeyboardInterrupt):
        FineTuneTrial(payload(world, tmp_path / "state")).step()
    row = FineTuneTrial(payload(world, tmp_path / "state")).step()
    assert trained == [RATES[0], RATES[1], RATES[1], RATES[2]]
    straight = FineTuneTrial(payload(world, tmp_path / "straight")).step()
    assert (row.validation, row.learning_rate) == (straight.validation, straight.learning_rate)


def test_a_rate_that_diverges_is_not_chosen(world, tmp_path):
    row = FineTuneTrial(payload(world, tmp_path / "a", learning_rates=(1e30, 5e-3))).step()
    assert row.learning_rate == 5e-3
    assert [each.validation is None for each in row.rates] == [True, False]
    row = FineTuneTrial(payload(world, tmp_path / "b", learning_rates=(1e30, 1e31))).step()
    assert "every learning rate failed: 1e+30: training diverged" in row.error
    assert len(row.rates) == 2  # they are paid for


def test_the_lower_loss_is_better_among_equal_scores(world, tmp_path):
    row = FineTuneTrial(payload(world, tmp_path / "state", learning_rates=(1e-8, 1e-6))).step()
    assert len({each.validation for each in row.rates}) == 1
    assert row.learning_rate == 1e-6


def test_the_journal_names_the_rates(world, tmp_path):
    row = FineTuneTrial(payload(world, tmp_path / "state")).step()
    journal = Journal(tmp_path / "t.jsonl")
    for each in (*row.rates, row.journal_row()):
        assert journal.append(each)
        assert not journal.append(each)
    again = Journal(tmp_path / "t.jsonl").rows
    assert [each.learning_rate for each in again] == [*RATES, row.learning_rate]


def test_the_choice_is_part_of_plan_and_budget(world):
    halving = {"learning_rates": [1e-4, 1e-3, 5e-3]}
    config = select_job(world, matrix=None, fine_tune=OPEN, halving=halving)
    assert "learning rates" in describe_selection(config)
    assert plan_selection(config).pool == 1
    assert extra_epochs(3, 8) == 0.5
    assert extra_epochs(0, 8) == 0
    assert fit_to_budget(8, 3, Halving(), 14) == 8
    assert fit_to_budget(8, 3, Halving(), 14, shares=[1.5, 1.0, 1.0]) == 6


def test_what_has_no_effect_is_refused(world):
    halving = {"learning_rates": [1e-4, 1e-4]}
    with pytest.raises(ConfigError, match="has a value twice") as found:
        select_job(world, halving=halving)
    assert "fine_tune.learning_rate" in str(found.value)
    with pytest.raises(ConfigError, match=r"learning_rates"):
        select_job(world, fine_tune=OPEN, halving={"learning_rates": [1e-4]})
    assert SelectConfig.model_fields["halving"].default.learning_rates is None
