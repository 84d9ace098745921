"""Two workers, each with its own rows: loss and gradients are those of one with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from orchestrator.modeling.builder import build_model
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import DDPEngine, SingleEngine
from tests.support.ranks import spawn

from .pairs import pair_batch, pair_config

WORKERS = 2
SHARES = ([0, 1, 2, 3, 4], [5, 6, 7])
TARGETS = {
    "softmax": {"type": "clr", "projection_size": 6},
    "sigmoid": {"type": "clr", "loss": "sigmoid", "logit_bias": 0.0, "first": {"pooling": "mean"}},
}


def model_and_batch(loss):
    torch.manual_seed(1)
    model = build_model(pair_config(TARGETS[loss]))
    halves = [pair_batch(4), pair_batch(4)]
    batch = {key: torch.cat([half[key] for half in halves]) for key in halves[0]}
    batch["labels.clr"] = torch.tensor([1, 1, -100, 1, 1, 1, 1, 1])
    return model.train(), batch


def run(loss, rows=slice(None)):
    """Return loss, count, correct and gradients of some rows, in training."""
    model, batch = model_and_batch(loss)
    result = model({key: value[rows] for key, value in batch.items()})
    result["loss.clr"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {key: value.detach().double() for key, value in result.items()}, gradients


def run_engine(kind, loss, rows=slice(None)):
    """Return what an engine reports of one step, and the gradients it steps with."""
    model, batch = model_and_batch(loss)
    engine = kind(model, OptimizerConfig())
    metrics = engine.forward_backward([{key: value[rows] for key, value in batch.items()}])
    gradients = {f"engine.{name}": p.grad for name, p in model.named_parameters()}
    found = {f"engine.{name}": torch.tensor(value) for name, value in metrics.items()}
    return found, gradients


def worker(rank, _world, folder):
    for loss in TARGETS:
        result, gradients = run(loss, SHARES[rank])
        for value in (*result.values(), *gradients.values()):
            dist.all_reduce(value)
        metrics, stepped = run_engine(DDPEngine, loss, SHARES[rank])
        if rank == 0:
            save_file(result | gradients | metrics | stepped, f"{folder}/{loss}.safetensors")
    model, batch = model_and_batch("softmax")
    if rank == 0:  # alone: evaluation must not wait for the other worker
        model.eval()(batch)
        with torch.no_grad():
            model.train()(batch)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    spawn(worker, WORKERS, folder)
    return {loss: load_file(folder / f"{loss}.safetensors") for loss in TARGETS}


@pytest.mark.parametrize("loss", list(TARGETS))
def test_workers_together_are_one_with_the_whole_batch(loss, together):
    result, gradients = run(loss)
    assert result["count.clr"] == 7
    for key, value in result.items():
        torch.testing.assert_close(together[loss][key], value, atol=1e-5, rtol=1e-6, msg=key)
    for name, gradient in gradients.items():
        torch.testing.assert_close(together[loss][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("loss", list(TARGETS))
def test_a_step_of_the_engine_is_that_of_one_worker(loss, together):
    metrics, gradients = run_engine(SingleEngine, loss)
    assert metrics["engine.count.clr"] == 7
    for name, value in (metrics | gradients).items():
        torch.testing.assert_close(together[loss][name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("loss", list(TARGETS))
def test_each_with_its_own_rows_only_is_something_else(loss):
    """The test above can fail: without the others' rows, the loss is another one."""
    whole, _ = run(loss)
    apart = sum(float(run(loss, share)[0]["loss.clr"]) for share in SHARES)
    assert abs(apart - float(whole["loss.clr"])) > 0.1
