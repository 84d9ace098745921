"""Metrics stay on the device: who reads them, and how often."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.descent import descend
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.loop import train
from orchestrator.training.metrics import MetricSums, StepMetrics, interval_means
from tests.unit.training.toy_model import ToyModel, ToySource

READS = {"item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__"}


class Reads(TorchFunctionMode):
    """Notes each read of a floating-point tensor by the host (label counts are integers)."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READS and args[0].is_floating_point():
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def engine():
    return SingleEngine(ToyModel(), OptimizerConfig())


@pytest.mark.parametrize("size", [1, 4])
def test_a_pass_reads_only_the_counts_before_it_and_a_step_reads_once(size):
    one, source = engine(), ToySource()
    window = [b for step in range(size) for b in source.window(step, 0, 1)]
    with Reads() as reads:
        metrics = one.forward_backward(window)
    assert reads.names == ["tolist"]  # the window's label counts, before the forward pass
    with Reads() as reads:
        descend(one, metrics, 1e-3, max_grad_norm=0.01)
    assert reads.names == ["tolist"]


def test_a_run_reads_twice_per_step_and_once_per_interval():
    sizes = {"global_batch_size": 8, "micro_batch_size": 8}
    config = TrainConfig(max_steps=8, log_every_steps=4, **sizes)
    with Reads() as reads:
        train(engine(), ToySource(), config)
    assert len(reads.names) == 2 * 8 + 2


def test_metrics_read_one_by_one_or_together_are_the_same():
    one = engine()
    steps = [one.forward_backward(ToySource().window(step, 0, 1)) for step in range(3)]
    means = interval_means(steps)
    assert list(means) == list(steps[0])
    for name, mean in means.items():
        values = [step[name] for step in steps]
        expected = sum(values) if name.startswith("count.") else sum(values) / 3
        assert mean == expected


def test_metrics_of_a_pass_equal_those_of_an_evaluation():
    model = ToyModel().eval()
    window, sums = ToySource().window(0, 0, 1), MetricSums(tuple(model.targets))
    one = SingleEngine(model, OptimizerConfig())
    for batch in window:
        sums.add({key: value.detach() for key, value in model(batch).items()})
    assert dict(one.forward_backward(window)) == sums.reduce(lambda value: value)


def test_an_interval_ignores_what_is_not_finite_and_sums_skipped_steps():
    steps = [
        StepMetrics({"loss": torch.tensor(math.nan, dtype=torch.float64)}, {"skipped": 1.0}),
        StepMetrics({"loss": torch.tensor(2.0, dtype=torch.float64)}, {"skipped": 1.0}),
        StepMetrics({"skipped": 0.0}),
    ]
    assert interval_means(steps) == {"loss": 2.0, "skipped": 2.0}
    assert interval_means([]) == {}


def test_later_parts_replace_earlier_ones():
    first = StepMetrics({"loss": torch.tensor(2.0, dtype=torch.float64)}, {"a": 1.0})
    assert dict(StepMetrics(first, {"a": 3.0})) == {"loss": 2.0, "a": 3.0}
    assert first["a"] == 1.0
