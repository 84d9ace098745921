"""Parameter groups by role and head."""

import torch

from orchestrator.training.config import OptimizerConfig
from orchestrator.training.optimizers import apply_lr, build_optimizer, parameter_groups, roles
from orchestrator.training.seeding import derive_seed
from tests.unit.training.toy_model import ToyModel


def test_only_matrices_decay_and_heads_stand_alone():
    model = ToyModel()
    names = {id(p): n for n, p in model.named_parameters()}
    found = {
        (group["target"], group["weight_decay"]): sorted(names[id(p)] for p in group["params"])
        for group in parameter_groups(model, 0.1)
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
