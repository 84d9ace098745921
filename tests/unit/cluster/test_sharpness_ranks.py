"""Sharpness-aware steps and flatness are the same under every engine on two ranks."""

import math

import pytest
import torch

from orchestrator.cluster.engines import build_engine
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.sharpness import LateSteps, perturbed_losses
from tests.support.ranks import spawn
from tests.support.toy import toy_model, toy_window

STEPS, LATE, RATE, RHO = 20, 8, 3e-3, 0.5
OPTIMIZER = OptimizerConfig(learning_rate=RATE, eps=1e-6)
KINDS = {
    "ddp": {"type": "ddp"},
    "zero1": {"type": "zero", "zero_stage": 1},
    "zero2": {"type": "zero", "zero_stage": 2},
    "zero3": {"type": "zero", "zero_stage": 3},
    "fsdp2": {"type": "fsdp2"},
    "zero2-host": {"type": "zero", "zero_stage": 2, "offload": {"optimizer": "cpu"}},
}
SHORT = [("zero1", "bf16"), ("zero3", "bf16"), ("fsdp2", "bf16"), ("zero2", "fp16")]


def engine(kind, world, **more):
    config = EngineConfig.model_validate(KINDS.get(kind, {"type": kind}) | more)
    return build_engine(toy_model(), OPTIMIZER, config, world=world)


def windows(each, step, micro=3):
    """A rank's part of the same rows, whatever the number of ranks; a head is idle at times."""
    heads = "both" if step % 3 else "lm"
    return toy_window(step, 0, 1, micro=micro, heads=heads)[each.rank :: each.world]


def result(each, steps=STEPS, late=LATE, rho=RHO):
    step_fn = LateSteps(late, rho, True, 1.0, 0)
    metrics = [step_fn(each, windows(each, step), RATE) for step in range(steps)]
    before = each.gathered()
    figures = perturbed_losses(each, windows(each, 100), RHO, adaptive=True)
    after = each.gathered()
    return {
        "losses": [found["loss"] for found in metrics],
        "sharpness": [found["sharpness"] for found in metrics if "sharpness" in found],
        "weights": before,
        "figures": figures,
        "unchanged": all(torch.equal(value, after[name]) for name, value in before.items()),
        "overflows": sum(found.get("overflow", 0.0) for found in metrics),
    }


def on_rank(rank, world, folder):
    found = {kind: result(engine(kind, world)) for kind in KINDS}
    for kind in ("zero2", "fsdp2"):
        found[kind, "off"] = result(engine(kind, world), late=0, rho=0.0)
        found[kind, "never"] = result(engine(kind, world), late=STEPS)
    for kind, precision in SHORT:
        scale = {"loss_scale": {"initial": 2.0**26}} if precision == "fp16" else {}
        each = engine(kind, world, precision=precision, **scale)
        found[kind, precision] = result(each, steps=12, late=4)
    if rank == 0:
        torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharpness")
    spawn(on_rank, 2, folder)
    return torch.load(folder / "found.pt")


@pytest.fixture(scope="module")
def alone():
    return result(engine("single", 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_and_measure_like_one_process(two_ranks, alone, kind):
    found = two_ranks[kind]
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert found["sharpness"] == pytest.approx(alone["sharpness"], abs=1e-5)
    assert len(found["sharpness"]) == STEPS - LATE
    assert found["figures"] == pytest.approx(alone["figures"], abs=1e-5)
    assert found["unchanged"]
    for name, value in found["weights"].items():
        assert (value - alone["weights"][name]).abs().max() <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero2", "fsdp2"])
def test_no_radius_is_no_step_at_all(two_ranks, kind):
    off, never = two_ranks[kind, "off"], two_ranks[kind, "never"]
    assert off["losses"] == never["losses"]
    assert all(torch.equal(v, never["weights"][name]) for name, v in off["weights"].items())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), SHORT)
def test_short_formats_train_and_skip_overflows(two_ranks, alone, kind, precision):
    found = two_ranks[kind, precision]
    assert found["unchanged"]
    assert all(map(math.isfinite, (*found["losses"], *found["figures"])))
    if precision == "fp16":
        assert found["overflows"] >= 1
    else:
        assert found["losses"] == pytest.approx(alone["losses"][:12], rel=0.02)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kind", ["zero2", "zero3", "fsdp2"])
def test_one_rank_trains_and_measures_like_a_single_process(kind):
    found, expected = (result(engine(name, 1), steps=4, late=1) for name in (kind, "single"))
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["figures"] == pytest.approx(expected["figures"], abs=1e-5)
    assert found["unchanged"]
