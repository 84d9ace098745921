"""Every formula of C&F against the NumPy reference, and the whole run over three tasks."""

import numpy as np
import pytest
import torch

from orchestrator.continual.config import MethodConfig
from orchestrator.continual.fisher import gathered_fisher, sharded_fisher, skeleton_of
from orchestrator.continual.parts.base import cut, total_metrics
from orchestrator.continual.parts.clamp import Clamp
from orchestrator.continual.parts.configs import ClampConfig
from orchestrator.continual.parts.find import accumulate, add_penalty, normalized
from orchestrator.errors import InputError, StageError
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.sharpness import perturbed
from tests.unit.continual.cf_reference import (
    Net,
    cf_run,
    fisher,
    gradients,
    perturbation,
    task_data,
    torch_batch,
)
from tests.unit.continual.net_task import NetTask, step_of

TASKS = ("one", "two", "three")
OPTIMIZER = OptimizerConfig(learning_rate=0.02, weight_decay=0.1, eps=1e-6)


def engine(**options):
    return SingleEngine(Net(**options), OPTIMIZER)


def arrays(module):
    return {n: p.detach().numpy().copy() for n, p in module.named_parameters()}


def rows(name, index=0):
    x, y = task_data(index)
    return [torch_batch(name, x[i : i + 1], y[i : i + 1]) for i in range(len(y))]


def assert_close(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            np.asarray(found[name]), value, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rho", [0.05, 0.65])
def test_perturbation(adaptive, rho):
    one, (x, y) = engine(), task_data(0)
    w = arrays(one.module)
    one.forward_backward([torch_batch("one", x, y)])
    e = perturbation(w, gradients(w, "one", x, y), rho, adaptive)
    with perturbed(one, rho, adaptive=adaptive):
        assert_close(arrays(one.module), {n: w[n] + e[n] for n in w}, 1e-9)
    restored = arrays(one.module)
    assert all(np.array_equal(restored[n], w[n]) for n in w)


def test_perturbation_has_the_radius_it_names():
    one, (x, y) = engine(), task_data(0)
    before = arrays(one.module)
    one.forward_backward([torch_batch("one", x, y)])
    with perturbed(one, 0.3, adaptive=True):
        moved = arrays(one.module)
    relative = [(moved[n] - before[n]) / before[n] for n in before]
    assert np.sqrt(sum((r**2).sum() for r in relative)) == pytest.approx(0.3, rel=1e-6)


def test_weights_come_back_when_the_second_pass_fails():
    one, (x, y) = engine(), task_data(0)
    before = arrays(one.module)
    one.forward_backward([torch_batch("one", x, y)])
    with pytest.raises(RuntimeError, match="broken"), perturbed(one, 0.5, adaptive=True):
        raise RuntimeError("broken")
    assert all(np.array_equal(v, before[n]) for n, v in arrays(one.module).items())


@pytest.mark.parametrize("way", ["gathered", "sharded"])
def test_fisher(way):
    one, (x, y) = engine(), task_data(0)
    one.module.train()
    if way == "gathered":
        found = gathered_fisher(one, skeleton_of(one.module), rows("one"))
    else:
        found = sharded_fisher(one, rows("one"))
    assert_close(found, fisher(arrays(one.module), "one", x, y))
    assert one.module.training
    assert one.optimizer.state == {}


def test_squared_mean_gradient_is_not_the_fisher():
    one, (x, y) = engine(), task_data(0)
    w = arrays(one.module)
    right = sum(v.sum() for v in fisher(w, "one", x, y).values())
    wrong = sum(float(v.sum()) for v in sharded_fisher(one, [torch_batch("one", x, y)]).values())
    assert wrong < 0.5 * right


@pytest.mark.parametrize("way", [sharded_fisher, lambda e, s: gathered_fisher(e, e.module, s)])
def test_fisher_without_samples_is_refused(way):
    with pytest.raises(InputError, match="at least one sample"):
        way(engine(), [])


def test_skeleton_keeps_ties_and_holds_no_memory():
    net = Net()
    net.targets["two"].weight = net.targets["one"].weight
    skeleton = skeleton_of(net)
    assert skeleton.targets["two"].weight is skeleton.targets["one"].weight
    assert all(p.is_meta for p in skeleton.parameters())
    assert not any(p.is_meta for p in net.parameters())


def test_accumulation_and_normalization():
    old = {"a": torch.tensor([2.0, 4.0])}
    new = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[6.0]])}
    found = accumulate(old, new, 0.5)
    assert found["a"].tolist() == [2.0, 2.0]
    assert found["b"].tolist() == [[6.0]]
    scaled = normalized(found)
    assert scaled["a"].tolist() == pytest.approx([0.6, 0.6])
    assert scaled["b"].tolist() == [[pytest.approx(1.8)]]
    assert normalized({"a": torch.zeros(2)})["a"].tolist() == [0.0, 0.0]


def some_anchors(one, names=("trunk.0.weight", "trunk.2.bias")):
    rng = np.random.default_rng(1)
    full = one.gathered()
    weights = {n: full[n] + 0.1 * torch.from_numpy(rng.normal(size=full[n].shape)) for n in names}
    importance = {n: torch.from_numpy(rng.uniform(size=full[n].shape)) for n in names}
    return weights, importance


def test_penalty_and_its_gradient():
    one, (x, y) = engine(), task_data(0)
    weights, importance = some_anchors(one)
    one.forward_backward([torch_batch("one", x, y)])
    expected = gradients(arrays(one.module), "one", x, y)
    value = 0.0
    for n in weights:
        away = arrays(one.module)[n] - weights[n].numpy()
        expected[n] = expected[n] + 7.0 * importance[n].numpy() * away
        value += 3.5 * (importance[n].numpy() * away**2).sum()
    shards = one.shards()
    found = add_penalty(shards, cut(one, weights), cut(one, importance), 7.0)
    assert found == pytest.approx(value, rel=1e-9)
    assert_close({s.name: s.grad.view(s.shape) for s in shards}, expected)


def test_box_clamps_counts_and_leaves_new_parameters_alone():
    one = engine()
    weights = {"trunk.0.bias": torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0], dtype=torch.float64)}
    shards = {s.name: s for s in one.shards()}
    shards["trunk.0.bias"].master.copy_(torch.tensor([0.9, 1.2, 3.0, 0.4, 0.1]))
    head = shards["targets.one.bias"].master.clone()
    box = Clamp(ClampConfig(radius=0.25, floor=0.1))
    box.before_task(NetTask(one, weights))
    box.projection()(list(shards.values()))
    found = shards["trunk.0.bias"].master.tolist()
    assert found == pytest.approx([0.1, 1.2, -0.75, 0.4, 1.5])
    assert box.shard_sums() == {"clamped_share": (3, 5)}
    assert total_metrics(one, [box]) == {"clamped_share": 0.6}
    assert torch.equal(shards["targets.one.bias"].master, head)


def test_anchors_without_importance_are_refused():
    one = engine()
    weights, importance = some_anchors(one)
    del importance["trunk.2.bias"]
    with pytest.raises(StageError, match=r"differ in: trunk\.2\.bias"):
        add_penalty(one.shards(), cut(one, weights), cut(one, importance), 1.0)


def method(**changes):
    fields = {
        "create": {"rho": 0.5},
        "find": {"penalty": 30.0, "normalise": False, "gamma": 0.9},
        "clamp": {"radius": 0.2, "floor": 0.01},
    }
    return MethodConfig(**{"preset": "c&f", **fields, **changes})


def test_three_tasks_equal_the_reference():
    settings, steps = method(), 15
    one = engine()
    start = arrays(one.module)
    weights, importance, clamped = {}, {}, []
    for index, name in enumerate(TASKS):
        fresh = SingleEngine(Net(), OPTIMIZER)
        fresh.module.load_state_dict(one.module.state_dict())
        one = fresh
        step = step_of(settings, one, weights=weights, importance=importance)
        x, y = task_data(index)
        for _ in range(steps):
            clamped.append(step(one, [torch_batch(name, x, y)], 0.02).get("clamped_share", 0.0))
        new = gathered_fisher(one, skeleton_of(one.module), rows(name, index))
        importance = accumulate(importance, new, settings.find.gamma)
        weights = {n: torch.from_numpy(v) for n, v in arrays(one.module).items()}
    w, f, m = cf_run(
        start, TASKS, steps=steps, lr=0.02, rho=0.5, adaptive=True, penalty=30.0, gamma=0.9,
        radius=0.2, floor=0.01, decay=0.1, eps=1e-6,
    )  # fmt: skip
    assert 0.01 < max(clamped) < 0.9, "the box must matter in this test, and not hold everything"
    assert_close(arrays(one.module), w, 1e-5)
    assert_close(importance, f, 1e-5)
    assert_close(weights, m, 1e-5)
