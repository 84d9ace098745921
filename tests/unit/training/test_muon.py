"""Muon against torch's own, the matrices that it orthogonalizes, and cautious decay."""

import math

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.muon import Stack, orthogonalized
from orchestrator.training.engines.optimizers import build_optimizer, hidden_matrices
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.engines.update_rules import Lamb
from orchestrator.training.engines.weight_decay import CHUNK, decay
from tests.support.stacked import stacked_model
from tests.support.toy import WIDTH, toy_window

RATE, DECAY, STEPS = 3e-3, 0.1, 20


def trained(optimizer, precision="fp32", steps=STEPS, model=stacked_model):
    """Weights after some steps of the toy; in every third a head is idle."""
    engine = SingleEngine(model(), optimizer, precision=precision)
    for step in range(steps):
        engine.forward_backward(toy_window(step, 0, 1, heads="both" if step % 3 else "lm"))
        engine.set_lr(RATE)
        engine.step()
    return engine.gathered()


class TorchMuon:
    """The same toy, stepped by torch's Muon and AdamW over the same engine's gradients."""

    def __init__(self):
        self.engine = SingleEngine(stacked_model(), OptimizerConfig(learning_rate=RATE))
        named = dict(self.engine.module.named_parameters())
        self.parts, rest = [], []
        stacks = hidden_matrices(self.engine.module)
        for name, parameter in named.items():
            if name in stacks:
                stack = stacks[name]
                shape = (stack.count, stack.rows, stack.columns)
                self.parts += [(parameter, shape, k) for k in range(stack.count)]
            elif parameter.requires_grad:
                rest.append((name, parameter))
        copies = [p.detach().view(shape)[k].clone() for p, shape, k in self.parts]
        self.copies = [torch.nn.Parameter(copy) for copy in copies]
        muon = {"momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
        self.muon = torch.optim.Muon(self.copies, lr=RATE, weight_decay=DECAY, **muon)
        decays = [name.endswith("cls.weight") for name, _ in rest]
        groups = [
            {
                "params": [p for (_, p), flag in zip(rest, decays, strict=True) if flag == wanted],
                "weight_decay": DECAY * wanted,
            }
            for wanted in (True, False)
        ]
        self.heads = [p for name, p in rest if name.startswith("targets.cls")]
        self.adamw = torch.optim.AdamW(groups, lr=RATE, eps=1e-6)

    @torch.no_grad()
    def step(self, idle):
        for copy, (parameter, shape, k) in zip(self.copies, self.parts, strict=True):
            copy.grad = parameter.grad.view(shape)[k].clone()
        kept = [p.detach().clone() for p in self.heads]
        self.muon.step()
        self.adamw.step()
        if idle:  # the engine steps an idle head with learning rate 0; its moments go on
            for parameter, before in zip(self.heads, kept, strict=True):
                parameter.copy_(before)
        for copy, (parameter, shape, k) in zip(self.copies, self.parts, strict=True):
            parameter.view(shape)[k].copy_(copy)


def test_updates_are_those_of_torch(monkeypatch):
    """torch always computes in bf16; here it is made to keep the format of the gradient."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    settings = {"type": "muon", "learning_rate": RATE, "weight_decay": DECAY, "eps": 1e-6}
    found = SingleEngine(stacked_model(), OptimizerConfig(**settings))
    reference = TorchMuon()
    for step in range(STEPS):
        heads = "both" if step % 3 else "lm"
        for engine in (found, reference.engine):
            engine.forward_backward(toy_window(step, 0, 1, heads=heads))
        found.set_lr(RATE)
        found.step()
        reference.step(idle=heads == "lm")
    start = dict(stacked_model().named_parameters())
    for name, value in reference.engine.gathered().items():
        assert (found.gathered()[name] - value).abs().max() <= 1e-6, name
        if not name.startswith("frozen"):
            assert (value - start[name]).abs().max() > 1e-3, name


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_bf16_products_are_those_of_torch_bit_for_bit(shape):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape)
    expected = -orthogonalized(weight.grad, torch.bfloat16).float()
    torch.optim.Muon([weight], lr=1.0, momentum=0.0, adjust_lr_fn="match_rms_adamw").step()
    assert torch.equal(weight.detach(), (expected * Stack(1, *shape).scale).to(weight.dtype))


def test_singular_values_become_one():
    torch.manual_seed(0)
    for shape in ((40, 12), (12, 40)):
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape), torch.float32))
        assert values.min() > 0.65
        assert values.max() < 1.25
    assert torch.equal(orthogonalized(torch.zeros(3, 4), torch.float32), torch.zeros(3, 4))


def test_each_matrix_of_a_parameter_is_one():
    found = hidden_matrices(stacked_model())
    assert found == {
        "recurrent.weight_ih_l0": Stack(3, WIDTH, WIDTH),
        "recurrent.weight_hh_l0": Stack(3, WIDTH, WIDTH),
        "fused.weight": Stack(3, WIDTH, WIDTH),
        "up": Stack(3, 11, WIDTH),
        "down": Stack(3, WIDTH, 11),
        "kernels.weight": Stack(1, 10, 3 * WIDTH),
        "back.weight": Stack(1, WIDTH, 10),
    }
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(4, 6, proj_size=2, bidirectional=True)
    assert hidden_matrices(lstm)["weight_ih_l0_reverse"] == Stack(4, 6, 4)
    assert hidden_matrices(lstm)["weight_hr_l0"] == Stack(1, 2, 6)


def test_embeddings_and_heads_of_real_models_are_left_to_adamw():
    encoder = {"type": "transformer", "num_heads": 2, "num_layers": 1}
    encoder["experts"] = {"num_experts": 4, "top_k": 2}
    raw = {"vocab_size": 30, "hidden_size": 8, "encoder": encoder, "target": ["mlm", "sp"]}
    model = build_model(validate_config(ModelConfig, raw, "test"))
    found = hidden_matrices(model)
    assert all(name.startswith("encoder.layers.0.") for name in found)
    assert sum(stack.count for stack in found.values()) >= 4 + 8  # attention, experts
    optimizer = build_optimizer(model, OptimizerConfig(type="muon"))
    hidden = [p for g in optimizer.param_groups if g["stacks"] for p in g["params"]]
    assert {id(p) for p in hidden} == {id(dict(model.named_parameters())[name]) for name in found}


def test_a_model_without_trained_hidden_matrices_is_refused():
    model = stacked_model()
    for name in hidden_matrices(model):
        model.get_parameter(name).requires_grad_(False)
    with pytest.raises(InputError, match="no hidden matrix"):
        build_optimizer(model, OptimizerConfig(type="muon"))


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "lion", "lamb", "muon"])
def test_decay_that_is_not_cautious_is_that_of_before_and_cautious_differs(kind):
    settings = {"type": kind, "learning_rate": RATE, "weight_decay": 1.0}
    off = trained(OptimizerConfig(**settings, cautious=False), steps=4)
    plain = trained(OptimizerConfig(**settings), steps=4)
    on = trained(OptimizerConfig(**settings, cautious=True), steps=4)
    assert all(torch.equal(off[name], plain[name]) for name in off)
    name = "recurrent.weight_hh_l0"
    assert not torch.equal(on[name], off[name])
    assert on[name].norm() > off[name].norm()  # it shrinks some of the weights only


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "lion", "lamb", "muon"])
def test_cautious_decay_is_its_algorithm(kind):
    """One step more than without decay: by eta lambda x where update and weight agree."""
    torch.manual_seed(3)
    start, moved = torch.randn(70, 90), {}
    for decays in (0.0, 0.5):
        settings = {"weight_decay": decays, "cautious": decays > 0}
        model = torch.nn.Linear(90, 70, bias=False)
        if kind == "lamb":  # a vector has no ratio, which would depend on the decay
            model.weight = torch.nn.Parameter(torch.empty(6300))
            groups = [{"params": [model.weight], "weight_decay": decays}]
            optimizer = Lamb(groups, RATE, cautious=decays > 0)
        else:
            config = OptimizerConfig(type=kind, learning_rate=RATE, **settings)
            optimizer = build_optimizer(model, config)
        generator = torch.Generator().manual_seed(4)
        for _ in range(2):
            with torch.no_grad():
                model.weight.copy_(start.view(model.weight.shape))
            gradient = torch.randn(start.shape, generator=generator)
            model.weight.grad = gradient.view_as(model.weight)
            optimizer.step()
        moved[decays] = model.weight.detach().view_as(start)
    update = start - moved[0.0]  # eta u
    expected = torch.where(update * start >= 0, RATE * 0.5 * start, 0.0)
    clear = update.abs() > 1e-6  # the sign of the others is lost in the weights' rounding
    assert clear.float().mean() > 0.99
    torch.testing.assert_close((moved[0.0] - moved[0.5])[clear], expected[clear], atol=5e-7, rtol=0)


def test_long_tensors_decay_in_chunks():
    torch.manual_seed(0)
    values, update = torch.randn(2, CHUNK + 7)
    expected = torch.where(values * update >= 0, 0.9 * values, values)
    decay(values, update, 0.1, cautious=True)
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"momentum": 0.9}, "momentum"),
        ({"type": "adafactor", "cautious": True}, "cautious"),
        ({"cautious": True, "weight_decay": 0}, "cautious"),
    ],
)
def test_settings_without_effect_are_refused(raw, path):
    (problem,) = OptimizerConfig(**raw).problems()
    assert problem.path == path


def test_hidden_matrices_have_half_the_state():
    muon, adamw = OptimizerConfig(type="muon"), OptimizerConfig()
    assert adamw.state_bytes(100, 60) == 800
    assert muon.state_bytes(100, 60) == 60 * 4 + 40 * 8
    engine = SingleEngine(stacked_model(), muon)
    engine.forward_backward(toy_window(0, 0, 1))
    engine.step()
    measured = sum(
        value.nbytes
        for state in engine.optimizer.state.values()
        for value in state.values()
        if value.dim()
    )
    count = sum(p.numel() for p in engine.module.parameters() if p.requires_grad)
    hidden = sum(s.count * s.size for s in hidden_matrices(engine.module).values())
    assert measured == muon.state_bytes(count, hidden)


def test_bf16_passes_make_bf16_products():
    values = trained(OptimizerConfig(type="muon", learning_rate=RATE), "bf16", steps=3)
    assert all(math.isfinite(value.sum()) for value in values.values())
    engine = SingleEngine(stacked_model(), OptimizerConfig(type="muon"), precision="bf16")
    assert engine.optimizer.compute == torch.bfloat16
    for precision in ("fp32", "fp16"):
        engine = SingleEngine(stacked_model(), OptimizerConfig(type="muon"), precision=precision)
        assert engine.optimizer.compute == torch.float32
