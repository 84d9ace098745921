"""Salvage on the states of real trials, without Ray."""

import pytest
import torch

from orchestrator.modeling.package import load_model, read_state
from orchestrator.selection.salvage.merging import mix
from orchestrator.selection.salvage.trial import Donor, salvage_winner
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload, committed_rows
from tests.support.candidates import FINE_TUNE, TARGET, make_world, spec


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), encoders=("bert",))


def trained(world, state, rate, epochs):
    """Train a trial that starts from the only package of the zoo."""
    payload = TrialPayload.model_validate(
        {
            "trial": state.name,
            "package": "bert/v0001",
            "zoo": str(world / "zoo"),
            "task": spec(world, TARGET),
            "fine_tune": FINE_TUNE | {"learning_rate": rate},
            "seed": 3,
            "state": str(state),
            "keep_package": True,
        }
    )
    trial = FineTuneTrial(payload)
    rows = [trial.step() for _ in range(epochs)]
    return payload, rows[-1]


def test_a_loser_that_helps_is_merged_in_and_measured_as_published(world, tmp_path):
    winner, last = trained(world, tmp_path / "slow", 1e-6, FINE_TUNE["epochs"])
    donor, better = trained(world, tmp_path / "fast", 5e-3, 2)
    assert better.validation > last.validation
    donors = [Donor(payload=donor, validation=better.validation)]
    found = salvage_winner(winner, donors, tmp_path / "merged")
    assert found.before == last.validation
    assert found.after > found.before
    share = found.merged["bert/v0001"]
    merged = read_state(tmp_path / "merged" / "package")
    first = read_state(tmp_path / "slow" / "package")
    tuner = FineTuneTrial(donor).tuner_after(2)
    tuner.write(tmp_path)
    expected = mix(first, read_state(tmp_path), share)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)
    load_model(tmp_path / "merged" / "package")
    again = FineTuneTrial(winner).tuner_of(tmp_path / "merged" / "package")
    assert again.figures("validation")["accuracy"] == found.after
    assert again.figures("test")["accuracy"] == found.test
    assert (tmp_path / "merged" / "package" / "tokenizer.json").is_file()
    assert salvage_winner(winner, [], tmp_path / "merged") == found  # committed once


def test_a_loser_that_does_not_help_leaves_no_package(world, tmp_path):
    winner, last = trained(world, tmp_path / "fast", 5e-3, FINE_TUNE["epochs"])
    donor, worse = trained(world, tmp_path / "slow", 1e-6, 1)
    assert len(committed_rows(tmp_path / "slow")) == 1
    donors = [Donor(payload=donor, validation=worse.validation)]
    found = salvage_winner(winner, donors, tmp_path / "merged")
    assert found.merged == {}
    assert found.before == found.after == last.validation
    assert found.test is None
    assert len(found.trials) == 3
    assert not (tmp_path / "merged" / "package").exists()
