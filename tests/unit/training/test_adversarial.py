"""Adversarial steps beside the papers' equations, and under accumulation."""

import copy

import pytest
import torch

from orchestrator.config import load_config
from orchestrator.errors import ConfigError, InputError, NoLabelsError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.finetune.adversarial import adversarial_step, word_table
from orchestrator.training.finetune.lesson_options import AdversarialConfig

TABLE = "embedding.word.weight"
FGM = AdversarialConfig(epsilon=0.5)
PGD = AdversarialConfig(type="pgd", epsilon=0.5, alpha=0.3, steps=3)


def make_model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(
            hidden_size=8,
            vocab_size=20,
            max_position_embeddings=8,
            embedding={"parts": ["word", "pos"], "dropout": 0.0},
            encoder={"type": "transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.0},
            target={"type": "cls", "num_labels": 3, "dropout": 0.0},
        )
    )


def batch_of(rows):
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(1, 20, (rows, 8), generator=generator),
        "labels.cls": torch.randint(0, 3, (rows,), generator=generator),
    }


def gradients(model, batch):
    model.zero_grad()
    (model(batch)["loss.cls"] / len(batch["labels.cls"])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reference(config):
    """Return the gradient that the optimizer sees, as the papers write it."""
    model, batch = make_model(), batch_of(8)
    table = dict(model.named_parameters())[TABLE]
    clean = there = gradients(model, batch)
    start, r = table.detach().clone(), torch.zeros_like(table)
    for _ in range(1 if config.type == "fgm" else config.steps):
        stride = config.epsilon if config.type == "fgm" else config.alpha
        r = r + stride * there[TABLE] / there[TABLE].norm()
        if r.norm() > config.epsilon:
            r = config.epsilon * r / r.norm()
        table.data = start + r
        there = gradients(model, batch)
    return {name: clean[name] + there[name] for name in clean}


class Spying(SingleEngine):
    """Keeps the gradients that a step took."""

    def step(self, project=None):
        self.seen = {shard.name: shard.grad.clone().view(shard.shape) for shard in self.shards()}
        self.table = next(s.master.clone() for s in self.shards() if s.name == TABLE)
        super().step(project)


def taken(config, pieces, norm=None):
    model = make_model()
    engine, whole = Spying(model, OptimizerConfig(learning_rate=1e-3)), batch_of(8)
    before = dict(model.named_parameters())[TABLE].detach().clone().view(-1)
    size = 8 // pieces
    window = [{k: v[i * size : (i + 1) * size] for k, v in whole.items()} for i in range(pieces)]
    metrics = adversarial_step(config, TABLE, norm)(engine, window, 1e-3)
    torch.testing.assert_close(engine.table, before, rtol=0, atol=0)  # bit by bit
    return engine.seen, metrics


@pytest.mark.parametrize("config", [FGM, PGD], ids=["fgm", "pgd"])
@pytest.mark.parametrize("pieces", [1, 4])
def test_a_step_takes_the_sum_of_both_gradients(config, pieces):
    seen, metrics = taken(config, pieces)
    for name, expected in reference(config).items():
        torch.testing.assert_close(seen[name], expected, rtol=1e-4, atol=1e-6, msg=name)
    assert metrics["adversarial_loss"] > metrics["loss"]


def test_the_sum_is_clipped():
    seen, metrics = taken(FGM, 1, norm=0.01)
    total = torch.stack([grad.norm() for grad in seen.values()]).norm()
    assert total == pytest.approx(0.01, rel=1e-3)
    assert metrics["grad_norm"] > 0.01


def test_the_table_is_put_back_when_a_pass_fails():
    engine = Spying(make_model(), OptimizerConfig())
    before = copy.deepcopy(engine.module.state_dict())
    passes = []
    first = engine.forward_backward

    def failing(window, extra=()):
        passes.append(window)
        if len(passes) > 1:
            raise NoLabelsError("gone")
        return first(window, extra)

    engine.forward_backward = failing
    with pytest.raises(NoLabelsError):
        adversarial_step(FGM, TABLE, None)(engine, [batch_of(4)], 1e-3)
    assert all(torch.equal(before[name], t) for name, t in engine.module.state_dict().items())


def test_a_table_that_is_not_trained_is_refused():
    model = make_model()
    assert word_table(model) == TABLE
    model.get_parameter(TABLE).requires_grad_(False)
    with pytest.raises(InputError, match="does not train its word table"):
        word_table(model)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.adversarial={steps: 2}", r"adversarial\.steps: has no effect with type: fgm"),
        ("train={adversarial: {type: fgm}, lora: {rank: 2}}", "which lora does not train"),
        ("train.adversarial={type: free}", "adversarial.type"),
    ],
)
def test_options_that_do_not_go_together(override, message):
    base = ["package=minilm", "output=spam", "data.source=files:mails.csv"]
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, [*base, override])
