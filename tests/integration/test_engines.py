"""DDP, ZeRO 1, 2, 3 and FSDP2 do the same training; failures of a launch; a fit for each."""

import math

import pytest
import torch

from orchestrator.cluster.launcher import launch
from orchestrator.config import ClusterSection
from orchestrator.errors import ConfigError, StageError
from orchestrator.training.config import EngineConfig
from tests.support.toy import toy_model
from tests.support.toy_worker import STEPS

TWO = ClusterSection(workers=2, max_failures=2)
WORKERS = "tests.support.toy_worker"


def launched(function, payload, tmp_path, **options):
    return launch(
        f"{WORKERS}:{function}",
        payload,
        cluster=options.pop("cluster", TWO),
        engine=EngineConfig(),
        run_dir=tmp_path,
        name=function,
        **options,
    )


@pytest.fixture(scope="module")
def engines(local_ray, tmp_path_factory):
    """Results of all engines by kind, from one group of two workers."""
    kinds = ["ddp", "zero1", "zero2", "zero3", "fsdp2"]
    return launched("compare_engines", {"kinds": kinds}, tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp2"])
class TestSharded:
    """Every ZeRO stage, and FSDP2, against DDP in the same processes."""

    def test_losses_are_those_of_ddp(self, engines, kind):
        pairs = list(zip(engines["ddp"]["losses"], engines[kind]["losses"], strict=True))
        assert len(pairs) == STEPS
        assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in pairs)
        assert engines[kind]["evaluation"] == pytest.approx(engines["ddp"]["evaluation"], rel=1e-4)

    def test_weights_are_those_of_ddp(self, engines, kind):
        reference, weights = engines["ddp"]["weights"], engines[kind]["weights"]
        assert set(weights) == set(reference)
        for name, values in weights.items():
            difference = (torch.tensor(values) - torch.tensor(reference[name])).abs().max()
            assert difference <= 5e-6, name

    def test_each_rank_holds_a_part(self, engines, kind):
        trained = sum(p.numel() for p in toy_model().parameters() if p.requires_grad)
        assert engines[kind]["all_elements"] == trained
        assert 0 < engines[kind]["elements"] < 0.7 * trained

    def test_a_loaded_checkpoint_goes_on_bit_for_bit(self, engines, kind):
        assert engines[kind]["resumes"]


def test_ddp_holds_everything_and_learns(engines):
    trained = sum(p.numel() for p in toy_model().parameters() if p.requires_grad)
    assert engines["ddp"]["elements"] == trained
    weights = torch.tensor(engines["ddp"]["weights"]["embedding.weight"])
    assert (weights - toy_model().embedding.weight.flatten()).abs().max() > 0.01
    assert engines["ddp"]["resumes"]


def test_a_frozen_parameter_stays(engines):
    frozen = toy_model().frozen.weight.flatten()
    for result in engines.values():
        assert torch.equal(torch.tensor(result["weights"]["frozen.weight"]), frozen)


@pytest.mark.chaos
class TestFailures:
    """What the driver gets when something goes wrong on a worker."""

    def test_an_error_of_this_system_keeps_its_class_and_is_not_tried_again(
        self, local_ray, tmp_path
    ):
        events = []
        with pytest.raises(ConfigError) as caught:
            launched("refuse", {"error": "config"}, tmp_path, on_event=events.append)
        assert [each["event"] for each in events] == ["started"]
        assert [str(each) for each in caught.value.problems] == ["a.b: is wrong"]

    def test_a_bug_stops_the_launch_when_it_repeats(self, local_ray, tmp_path):
        events = []
        with pytest.raises(StageError, match="ValueError: an ordinary bug") as caught:
            launched("refuse", {"error": "bug"}, tmp_path, on_event=events.append)
        assert [each["event"] for each in events] == ["started", "started"]
        assert len(str(caught.value).splitlines()) < 12

    def test_a_lost_worker_costs_nothing_that_was_committed(self, local_ray, tmp_path):
        result = launched("die_once", {"kind": "zero2", "at": 3}, tmp_path)
        assert result["first"] == 2
        assert result["losses"] == result["uninterrupted"][2:]
