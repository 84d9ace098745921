"""The distillation term: its value, its gradient, and the heads it reads."""

import numpy as np
import torch

from orchestrator.continual.fisher import skeleton_of
from orchestrator.continual.parts.configs import DistillConfig
from orchestrator.continual.parts.distill import Distill
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from tests.unit.continual.net_task import NetTask

TEMPERATURE, WEIGHT = 2.0, 3.0


def engine_of():
    torch.manual_seed(0)
    config = ModelConfig(
        hidden_size=8,
        vocab_size=20,
        max_position_embeddings=6,
        embedding={"parts": ["word"], "dropout": 0.0},
        encoder={"type": "transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.0},
        target=[
            "mlm",
            *(ClsConfig(name=n, num_labels=k, dropout=0.0) for n, k in (("old", 3), ("new", 2))),
        ],
    )
    return SingleEngine(build_model(config), OptimizerConfig())


def distill(engine, earlier):
    part = Distill(DistillConfig(weight=WEIGHT, temperature=TEMPERATURE))
    task = NetTask(engine, earlier_heads=frozenset(earlier))
    task.skeleton = skeleton_of(engine.module)
    part.before_task(task)
    return part


def softmax(logits):
    found = np.exp((logits - logits.max(1, keepdims=True)) / TEMPERATURE)
    return found / found.sum(1, keepdims=True)


def test_the_loss_is_the_divergence_from_the_answers_before_the_task():
    engine = engine_of()
    part = distill(engine, {"old", "mlm"})
    ids = torch.randint(5, 20, (4, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before = engine.module.predict(batch, ["old"])["old"].detach().numpy()
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    after = engine.module.predict(batch, ["old"])["old"].detach().numpy()
    labelled = {**batch, "labels.new": torch.tensor([0, 1, 1, 0])}
    metrics = engine.forward_backward([labelled], part.extra())
    given, found = softmax(before), softmax(after)
    wanted = (given * np.log(given / found)).sum(1).mean() * TEMPERATURE**2
    assert np.isclose(metrics["loss.distill"], wanted, rtol=1e-5)
    assert np.isclose(metrics["loss"], metrics["loss.new"] + WEIGHT * wanted, rtol=1e-5)


def test_its_gradient_is_zero_where_nothing_has_changed_and_it_moves_no_other_head():
    engine = engine_of()
    part = distill(engine, {"old"})
    ids = torch.randint(5, 20, (4, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    engine.forward_backward([{**batch, "labels.new": torch.tensor([0, 1, 1, 0])}], part.extra())
    old = engine.module.targets["old"].output.weight
    assert old.grad is not None
    assert old.grad.abs().max() < 1e-6
    assert engine.module.targets["new"].output.weight.grad.abs().max() > 1e-3


def test_without_an_earlier_head_there_is_no_term():
    assert distill(engine_of(), ()).extra() == ()
    assert distill(engine_of(), {"mlm"}).extra() == ()
