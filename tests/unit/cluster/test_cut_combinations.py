"""Cut layers and replicas with short formats and sharpness-aware steps: as in one process."""

import pytest
import torch

from orchestrator.training.sharpness import LateSteps, perturbed_losses
from tests.support import tensor_worker as worker

pytestmark = pytest.mark.slow
STEPS, LATE, RHO, MICRO = 6, 3, 0.5, 4
CUT = {"type": "fsdp2", "tensor_parallel": 2}
SEQUENCE = CUT | {"sequence_parallel": True}
TWO_RANKS = {
    "tensor": ("llama", CUT),
    "sequence": ("llama", SEQUENCE),
    "encoder and decoder": ("t5", SEQUENCE),
    "experts": ("moe", {"type": "fsdp2", "expert_parallel": 2}),
}
FOUR_RANKS = {
    "tensor": ("llama", CUT),
    "replicas": ("llama", {"type": "fsdp2", "replicas": 2}),
    "experts": ("moe", {"type": "fsdp2", "expert_parallel": 2}),
}
CASES = {2: TWO_RANKS, 4: FOUR_RANKS}
SHORT = ("bf16", "fp16")
ROUNDED = {"bf16": (2e-3, 2e-2), "fp16": (1e-3, 1e-2)}
"""Allowed relative difference of losses and of gradient norms from fp32, after some steps."""


def ascended(each, config):
    """Losses, gradient norms and sharpness with the late steps; flatness; the last weights."""
    step_fn = LateSteps(LATE, RHO, True, 1.0, 0)
    each.module.train()
    rows = []
    for step in range(STEPS):
        batches = worker.window(config, step, each.rank, each.world, MICRO)
        found = step_fn(each, batches, worker.RATE)
        rows.append([found["loss"], found["grad_norm"], found.get("sharpness", 0.0)])
    batches = worker.window(config, 99, each.rank, each.world, MICRO)
    figures = perturbed_losses(each, batches, RHO, adaptive=True)
    return {"rows": rows, "figures": figures, "weights": each.gathered()}


def short_steps(each, config, folder, again):
    """Curve, a checkpoint, and what comes after it, there and in an engine that loads it."""
    rows = worker.advance(each, config, range(STEPS), MICRO)
    each.save(folder)
    again.load(folder)
    more = range(STEPS, STEPS + 2)
    return {"rows": rows, "more": [worker.advance(e, config, more, MICRO) for e in (each, again)]}


def combined(rank, world, folder):
    return {case: _combined(folder / case, world, *CASES[world][case]) for case in CASES[world]}


def _combined(folder, world, name, settings):
    config = worker.model_config(name)
    found = {"sharp": ascended(worker.engine(config, world, **settings), config)}
    for precision in SHORT:
        each, again = (
            worker.engine(config, world, seed=seed, precision=precision, **settings)
            for seed in (0, 5)
        )
        found[precision] = short_steps(each, config, folder / precision, again)
    return found


@pytest.fixture(scope="module", params=CASES)
def found(request, tmp_path_factory):
    """Number of ranks, and what each of them found, by case."""
    folder = tmp_path_factory.mktemp("combined")
    return request.param, worker.spawn(combined, folder, request.param)


@pytest.fixture(scope="module")
def alone():
    """Sharp steps, and plain ones, of one process by model."""
    results = {}
    for name in {name for cases in CASES.values() for name, _ in cases.values()}:
        config = worker.model_config(name)
        sharp, plain = (worker.engine(config, type="single") for _ in range(2))
        results[name] = (
            ascended(sharp, config),
            torch.tensor(worker.advance(plain, config, range(STEPS), MICRO)),
        )
    return results


def test_sharp_steps_are_those_of_one_process(found, alone):
    world, ranks = found
    for case, (name, _) in CASES[world].items():
        sharp, expected = ranks[0][case]["sharp"], alone[name][0]
        assert torch.tensor(sharp["rows"]) == pytest.approx(
            torch.tensor(expected["rows"]), rel=1e-5, abs=1e-5
        )
        assert all(row[2] > 0 for row in sharp["rows"][LATE:])
        assert sharp["figures"] == pytest.approx(expected["figures"], rel=1e-5)
        for key, value in expected["weights"].items():
            torch.testing.assert_close(sharp["weights"][key], value, rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("precision", SHORT)
def test_short_formats_are_those_of_one_process_up_to_rounding(found, alone, precision):
    world, ranks = found
    for case, (name, _) in CASES[world].items():
        first, plain = ranks[0][case][precision], alone[name][1]
        assert all(rank[case][precision]["rows"] == first["rows"] for rank in ranks)
        off = ((torch.tensor(first["rows"]) - plain).abs() / plain).amax(0)
        assert all(off <= torch.tensor(ROUNDED[precision])), (case, off)
        assert off[0] > 1e-6, "the format is that of fp32"
        uninterrupted, restored = first["more"]
        assert uninterrupted == restored
