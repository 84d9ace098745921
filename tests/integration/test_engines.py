"""DDP, ZeRO 1, 2, 3 and FSDP2 do the same training; failures of a launch; a fit for each."""

import pytest
import torch

from orchestrator.cluster.launcher import launch
from orchestrator.config import ClusterSection
from orchestrator.errors import ConfigError, StageError
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.events import GroupStarted
from tests.support.state import AnyState
from tests.support.toy import toy_model
from tests.support.toy_worker import RATE, STEPS, curve

pytestmark = pytest.mark.slow

SHARDED = [
    "zero1", "zero2", "zero3", "fsdp2",
    "zero2-offload", "zero3-offload", "fsdp2-offload",
]  # fmt: skip
HALF = ["ddp", "zero2", "zero3"]
CUT = ["zero1", "zero2", "zero3", "fsdp2"]
TWO = ClusterSection(workers=2, max_failures=2)
WORKERS = "tests.support.toy_worker"


def launched(function, payload, tmp_path, **options):
    return launch(
        f"{WORKERS}:{function}",
        AnyState(**payload),
        AnyState,
        cluster=options.pop("cluster", TWO),
        engine=EngineConfig(),
        run_dir=tmp_path,
        name=function,
        **options,
    )


@pytest.fixture(scope="module")
def engines(local_ray, tmp_path_factory):
    """Results of all engines by kind, from one group of two workers."""
    payload = {"kinds": ["ddp", *SHARDED], "overflow": HALF, "lamb": ["ddp", *CUT]}
    found = launched("compare_engines", payload, tmp_path_factory.mktemp("engines"))
    return {**found.kinds, "lamb": found.lamb, "overflow": found.overflow}


@pytest.fixture(scope="module")
def alone():
    """Losses of one worker that accumulates all micro-batches of the same samples."""
    config = OptimizerConfig(learning_rate=RATE, eps=1e-6)
    return curve(SingleEngine(toy_model(), config), 0, 1)


@pytest.mark.parametrize("kind", ["ddp", "whole", *SHARDED])
def test_the_loss_curve_does_not_depend_on_how_the_work_is_cut(engines, alone, kind):
    """1 worker or 2, accumulation or not, any engine; a head is idle in every third step."""
    assert len(alone) == STEPS == 20
    assert engines[kind]["losses"] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("kind", SHARDED)
class TestSharded:
    """Every ZeRO stage, and FSDP2, with and without offload, against DDP in the same processes."""

    def test_the_evaluation_is_that_of_ddp(self, engines, kind):
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

    def test_ddp_goes_on_from_its_checkpoint(self, engines, kind):
        own, _, replicated = engines[kind]["continued"]
        assert replicated == pytest.approx(own, rel=1e-4)


def test_ddp_holds_everything_and_learns(engines):
    trained = sum(p.numel() for p in toy_model().parameters() if p.requires_grad)
    assert engines["ddp"]["elements"] == trained
    weights = torch.tensor(engines["ddp"]["weights"]["embedding.weight"])
    assert (weights - toy_model().embedding.weight.flatten()).abs().max() > 0.01
    assert engines["ddp"]["resumes"]


@pytest.mark.parametrize("kind", HALF)
def test_ranks_agree_when_the_loss_scale_comes_down(engines, kind):
    found = engines["overflow"][kind]
    first, second = found["ranks"]
    assert first == second
    scales, overflows, skipped = zip(*first, strict=True)
    assert overflows[:3] == (1.0, 1.0, 1.0)
    assert scales[3] == scales[0] / 8
    assert overflows.count(0.0) >= 5
    assert not any(skipped)
    assert found["finite"]
    assert torch.equal(torch.tensor(found["frozen"]), toy_model().frozen.weight.flatten())


@pytest.mark.parametrize("kind", CUT)
def test_lamb_scales_by_whole_layers_where_ranks_hold_pieces(engines, kind):
    reference, found = engines["lamb"]["ddp"], engines["lamb"][kind]
    assert found["losses"] == pytest.approx(reference["losses"], rel=1e-4)
    for name, values in found["weights"].items():
        expected = torch.tensor(reference["weights"][name])
        torch.testing.assert_close(torch.tensor(values), expected, atol=5e-6, rtol=0, msg=name)


def test_a_frozen_parameter_stays(engines):
    frozen = toy_model().frozen.weight.flatten()
    for kind in ("ddp", *SHARDED):
        result = engines[kind]
        assert torch.equal(torch.tensor(result["weights"]["frozen.weight"]), frozen)


@pytest.mark.chaos
class TestFailures:
    """The driver's error when something goes wrong on a worker."""

    def test_an_error_of_this_system_keeps_its_class_and_is_not_tried_again(
        self, local_ray, tmp_path
    ):
        events = []
        with pytest.raises(ConfigError) as caught:
            launched("refuse", {"error": "config"}, tmp_path, on_event=events.append)
        assert [type(each) for each in events] == [GroupStarted]
        assert [str(each) for each in caught.value.problems] == ["a.b: is wrong"]

    def test_a_bug_stops_the_launch_when_it_repeats(self, local_ray, tmp_path):
        events = []
        with pytest.raises(StageError, match="ValueError: an ordinary bug") as caught:
            launched("refuse", {"error": "bug"}, tmp_path, on_event=events.append)
        assert [type(each) for each in events] == [GroupStarted, GroupStarted]
        assert len(str(caught.value).splitlines()) < 12

    def test_a_lost_worker_costs_nothing_that_was_committed(self, local_ray, tmp_path):
        result = launched("die_once", {"kind": "zero2", "at": 3}, tmp_path)
        assert result.first == 2
        assert result.losses == result.uninterrupted[2:]
