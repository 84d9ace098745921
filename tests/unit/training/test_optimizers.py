"""Optimizers against their formulas; parameter groups by role and head."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.data.randomness import derive_seed
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.optimizers import (
    apply_lr,
    averaged,
    build_optimizer,
    keep_average,
    parameter_groups,
    roles,
)
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.engines.update_rules import (
    AdamW8bit,
    Lamb,
    Lion,
    Piece,
    dequantize,
    dynamic_map,
    quantize,
)
from tests.unit.training.toy_model import ToyModel, ToySource


def test_only_matrices_decay_and_heads_stand_alone():
    model = ToyModel()
    names = {id(p): n for n, p in model.named_parameters()}
    found = {
        (group["target"], group["weight_decay"]): sorted(names[id(p)] for p in group["params"])
        for group in parameter_groups(model, OptimizerConfig(weight_decay=0.1))
    }
    assert found == {
        (None, 0.0): [
            "embedding.word.weight",
            "encoder.gain",
            "encoder.inner.bias",
            "encoder.norm.bias",
            "encoder.norm.weight",
            "encoder.outer.bias",
        ],
        (None, 0.1): ["encoder.inner.weight", "encoder.outer.weight"],
        ("lm", 0.0): ["targets.lm.bias"],
        ("a", 0.1): ["targets.a.output.weight"],
        ("a", 0.0): ["targets.a.output.bias"],
        ("b", 0.1): ["targets.b.output.weight"],
        ("b", 0.0): ["targets.b.output.bias"],
    }


def test_recurrent_weights_are_matrices():
    found = roles(torch.nn.LSTM(4, 3))
    assert found == {
        "weight_ih_l0": "matrix",
        "weight_hh_l0": "matrix",
        "bias_ih_l0": "vector",
        "bias_hh_l0": "vector",
    }


def test_idle_heads_get_learning_rate_zero():
    optimizer = build_optimizer(ToyModel(), OptimizerConfig())
    apply_lr(optimizer, 0.3, {"a"})
    rates = {group["target"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {None: 0.3, "lm": 0.0, "a": 0.3, "b": 0.0}


def test_seeds_depend_on_every_part():
    seeds = {derive_seed(s, p, t) for s in (0, 1) for p in ("x", "y") for t in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(7, "head") == derive_seed(7, "head")


def run(build, steps=60, seed=0):
    """Fit a small regression; return the losses and the weights."""
    torch.manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(64, 80) * 0.1)
    wanted = torch.randn(64, 80)
    optimizer = build([weight])
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (weight - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, weight.detach(), optimizer


def test_lion_is_its_algorithm():
    """Algorithm 2 of Chen et al. 2023, in NumPy."""
    w, m = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    parameter = torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))
    optimizer = Lion([parameter], lr=0.1, betas=(0.9, 0.99), weight_decay=0.2)
    for step in range(5):
        gradient = np.cos(w + step)
        parameter.grad = torch.cos(parameter.detach() + step)
        c = 0.9 * m + 0.1 * gradient
        w = w - 0.1 * (np.sign(c) + 0.2 * w)
        m = 0.99 * m + 0.01 * gradient
        optimizer.step()
        np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-12)


def lamb_reference(layers, gradients, rate, decay, beta1=0.9, beta2=0.999, eps=1e-6):
    """Algorithm 2 of You et al. 2020 in NumPy, fp64; vectors keep the ratio 1."""
    m, v = [np.zeros_like(x) for x in layers], [np.zeros_like(x) for x in layers]
    for t, step in enumerate(gradients, start=1):
        for i, g in enumerate(step):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            r = m[i] / (1 - beta1**t) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            r = r + decay * layers[i]
            norms = np.linalg.norm(layers[i]), np.linalg.norm(r)
            ratio = norms[0] / norms[1] if layers[i].ndim > 1 and all(norms) else 1.0
            layers[i] = layers[i] - rate * ratio * r
    return layers


def test_lamb_is_its_algorithm_whether_layers_are_whole_or_cut():
    """Two ranks whose flat tensors hold pieces of both matrices, in fp64."""
    generator = np.random.default_rng(4)
    layers = [generator.normal(size=(3, 4)), np.zeros((2, 3)), generator.normal(size=5)]
    gradients = [[generator.normal(size=x.shape) for x in layers] for _ in range(4)]
    expected = lamb_reference(list(layers), gradients, 0.1, 0.2)

    whole = [torch.nn.Parameter(torch.tensor(x)) for x in layers]
    optimizer = Lamb(whole, lr=0.1, weight_decay=0.2)
    for step in gradients:
        for parameter, g in zip(whole, step, strict=True):
            parameter.grad = torch.tensor(g)
        optimizer.step()
    for parameter, x in zip(whole, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), x, rtol=1e-6)

    # All in a row: elements 0..11, 12..17, 18..22; the first rank's part ends inside layer 0.
    flat, border = np.concatenate([x.ravel() for x in layers]), 7
    parts = [torch.nn.Parameter(torch.tensor(p)) for p in (flat[:border], flat[border:])]
    pieces = [[Piece(0, 0, 7)], [Piece(0, 0, 5), Piece(1, 5, 6)]]
    ranks = [Lamb([part], lr=0.1, weight_decay=0.2) for part in parts]
    both = threading.Barrier(2), {}
    for rank, own in enumerate(ranks):
        own.cut({parts[rank]: pieces[rank]}, 3, partial(summed, rank, *both))
    for step in gradients:
        row = np.concatenate([g.ravel() for g in step])
        for part, g in zip(parts, (row[:border], row[border:]), strict=True):
            part.grad = torch.tensor(g)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda own: own.step(), ranks))
    found = torch.cat([part.detach() for part in parts]).numpy()
    np.testing.assert_allclose(found, np.concatenate([x.ravel() for x in expected]), rtol=1e-6)


def summed(rank, barrier, values, value):
    """Add what two threads bring."""
    values[rank] = value
    barrier.wait(10)
    total = values[0] + values[1]
    barrier.wait(10)
    return total


def test_one_byte_moments_follow_fp32_moments():
    plain, weights, full = run(lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01))
    losses, found, small = run(lambda p: AdamW8bit(p, lr=0.05, weight_decay=0.01))
    assert losses == pytest.approx(plain, abs=0.03)  # of 1.0 at the start
    assert losses[-1] < 0.05 * losses[0]
    assert (found - weights).abs().mean() < 0.03  # they moved by about 0.8
    sizes = [
        sum(value.nbytes for value in optimizer.state[next(iter(optimizer.state))].values())
        for optimizer in (small, full)
    ]
    assert sizes[0] <= 0.30 * sizes[1]


@pytest.mark.parametrize("signed", [True, False])
def test_blocks_keep_their_largest_value_and_quantizing_again_changes_nothing(signed):
    torch.manual_seed(2)
    values = torch.randn(1000) * torch.logspace(-8, 2, 1000)
    values = values if signed else values.abs()
    codes, scales = quantize(values, signed)
    restored = dequantize(codes, scales, signed)
    assert codes.dtype == torch.uint8
    for start in range(0, 1000, 256):
        block, again = values[start : start + 256], restored[start : start + 256]
        largest = block.abs().argmax()
        assert again[largest] == block[largest]
        assert (again - block).abs().max() <= 0.08 * block.abs().max()
    codes_again, scales_again = quantize(restored, signed)
    assert torch.equal(scales_again, scales)
    assert torch.equal(dequantize(codes_again, scales_again, signed), restored)


def test_the_dynamic_map_is_dense_near_zero_and_ends_at_one():
    for signed in (True, False):
        table = dynamic_map(signed)
        assert len(table) == len(table.unique()) == 256
        assert table.max() == 1.0
        assert table.min() == (-1.0 if signed else 0.0)
        assert (table.diff() > 0).all()
        assert ((table.abs() > 0) & (table.abs() < 1e-3)).sum() >= 14


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "lion", "lamb", "muon", "adafactor"])
def test_a_stored_optimizer_continues_bit_for_bit(kind, tmp_path):
    config = OptimizerConfig(type=kind, learning_rate=1e-2)

    def engine(seed):
        torch.manual_seed(seed)
        model = ToyModel()
        with torch.no_grad():
            model.encoder.inner.weight.add_(seed)
        return SingleEngine(model, config)

    def advance(each, steps):
        losses = []
        for step in steps:
            losses.append(each.forward_backward(ToySource().window(step % 2, 0, 1))["loss"])
            each.step()
        return losses

    source, target = engine(0), engine(1)
    losses = advance(source, range(8))
    assert losses[-2] < losses[0]
    source.save(tmp_path)
    target.load(tmp_path)
    assert advance(target, range(8, 12)) == advance(source, range(8, 12))


def test_adafactor_is_refused_where_matrices_are_cut():
    engine, optimizer = EngineConfig(type="fsdp2"), OptimizerConfig(type="adafactor")
    (problem,) = engine.problems_with(2, optimizer)
    assert "adafactor" in problem.message
    assert list(EngineConfig(type="ddp").problems_with(2, optimizer)) == []


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "adafactor", "betas": (0.9, 0.99)},
        {"type": "lion", "eps": 1e-6},
    ],
)
def test_numbers_that_an_optimizer_does_not_use_are_problems(raw):
    assert len(list(OptimizerConfig(**raw).problems())) == 1


def test_lookup_tables_of_real_models_do_not_decay():
    encoder = {"type": "transformer", "num_heads": 2, "position_bias": {"type": "t5"}}
    raw = {"vocab_size": 30, "hidden_size": 8, "encoder": encoder, "target": "mlm"}
    found = roles(build_model(validate_config(ModelConfig, raw, "test")))
    tables = {name for name, role in found.items() if role == "table"}
    assert tables == {
        "embedding.word.weight",
        "embedding.pos.weight",
        "embedding.seg.weight",
        "encoder.position_bias.weight",
    }
    assert found["encoder.layers.0.attention.query.weight"] == "matrix"


def test_an_average_that_is_no_longer_kept_does_not_stand_for_the_weights(tmp_path):
    """A branch without one starts from a trunk with one; the trunk's would be exported."""
    trunk = SingleEngine(ToyModel(), OptimizerConfig(learning_rate=0.1, average_decay=0.9))
    branch = SingleEngine(ToyModel(), OptimizerConfig(learning_rate=0.1))
    for step in range(3):
        trunk.forward_backward(ToySource().window(step, 0, 1))
        trunk.step()
    trunk.save(tmp_path)
    branch.load(tmp_path)
    with averaged(branch):
        shown = branch.gathered()
    for name, value in trunk.gathered().items():
        assert torch.equal(shown[name], value)
    with averaged(trunk):
        average = trunk.gathered()
    assert not torch.equal(average["encoder.inner.weight"], shown["encoder.inner.weight"])


def test_the_average_of_a_weight_without_a_gradient_is_the_weight():
    """The device decides on steps by a flag; such a weight has no count of steps."""
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([used, unused], lr=0.1, fused=True)
    keep_average(optimizer, 0.5)
    optimizer.found_inf = torch.zeros(())
    for _ in range(2):
        used.grad = torch.ones(2)
        optimizer.step()
    assert torch.equal(optimizer.state[unused]["average"], unused)
    assert not torch.equal(optimizer.state[used]["average"], used)
