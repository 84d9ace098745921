"""The shared arithmetic: scales, metric sums, exact evaluation."""

import pytest
import torch

from orchestrator.errors import InputError
from orchestrator.training.metrics import MetricSums, evaluate_batches
from orchestrator.training.objective import window_scales
from tests.unit.training.toy_model import ToyModel, ToySource, join, sample


def alone(value):
    return value


def test_scales_are_weight_over_global_count():
    batches = ToySource(micro=4).window(0, 0, 1)
    window = window_scales(ToyModel(), batches, {"lm": 0.5}, lambda t: t * 3)
    tokens = sum(int((b["labels.lm"] != -100).sum()) for b in batches)
    assert window.counts == {"lm": 3 * tokens, "a": 3 * 6}
    assert window.scales == {"lm": pytest.approx(0.5 / (3 * tokens)), "a": pytest.approx(1 / 18)}
    assert window.active == {"lm", "a"}


def test_shares_of_micro_batches_add_up_to_the_loss_of_the_whole():
    model = ToyModel()
    whole, cut = ToySource().window(0, 0, 1), ToySource(micro=2).window(0, 0, 1)
    one = window_scales(model, whole, None, alone).loss(model(whole[0]))
    window = window_scales(model, cut, None, alone)
    several = sum(window.loss(model(batch)) for batch in cut)
    assert float(several.detach()) == pytest.approx(float(one.detach()), rel=1e-6)


def test_a_batch_without_any_label_is_refused():
    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    with pytest.raises(InputError, match="no label for any of the model's targets"):
        window_scales(ToyModel(), [batch], None, alone)


def test_an_idle_micro_batch_keeps_its_graph():
    model = ToyModel()
    labelled = join([sample(0, 0, i) for i in range(2)])
    unlabelled = {"input_ids": labelled["input_ids"], "labels.a": torch.full((2,), -100)}
    window = window_scales(
        model, [{k: labelled[k] for k in ("input_ids", "labels.b")}], None, alone
    )
    loss = window.loss(model(unlabelled))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(model.encoder.inner.weight.grad.abs().sum()) == 0.0


def test_metrics_are_weighted_by_counts_not_by_batches():
    sums = MetricSums(("x",))
    for loss, count, correct in ((6.0, 3, 3), (1.0, 1, 0)):
        values = {"loss.x": loss, "count.x": count, "correct.x": correct}
        sums.add({k: torch.tensor(v) for k, v in values.items()})
    assert sums.reduce(alone) == {"loss": 1.75, "loss.x": 1.75, "accuracy.x": 0.75, "count.x": 4}


@pytest.mark.parametrize("lockstep", [False, True])
def test_evaluation_does_not_depend_on_how_rows_are_batched(lockstep):
    model = ToyModel().eval()
    rows = [sample(0, 0, i) for i in range(7)]
    results = []
    for size in (1, 3, 7):
        batches = [join(rows[i : i + size]) for i in range(0, 7, size)]
        sums = MetricSums(tuple(model.targets))
        with torch.no_grad():
            results.append(evaluate_batches(model, batches, sums, alone, lockstep=lockstep))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)


def test_an_empty_evaluation_set_is_refused():
    with pytest.raises(InputError, match="0 of 1 workers"):
        evaluate_batches(ToyModel(), [], MetricSums(("lm",)), alone)
