"""An additional loss term gives the same training under every engine, on one rank and on two."""

import pytest
import torch
import torch.nn.functional as F

from orchestrator.errors import InputError, NoLabelsError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import clip_gradients
from orchestrator.training.engines.torch_engines import SingleEngine
from tests.support.ranks import spawn

STEPS, ROWS, LENGTH, TEMPERATURE = 10, 8, 8, 2.0
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, eps=1e-6)
MODEL = {
    "vocab_size": 30,
    "hidden_size": 16,
    "max_position_embeddings": LENGTH,
    "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
    "encoder": {"type": "transformer", "num_heads": 2, "num_layers": 2, "dropout": 0.0},
    "target": [
        {"type": "mlm"},
        {"type": "cls", "name": "old", "num_labels": 3, "dropout": 0.0},
        {"type": "cls", "name": "new", "num_labels": 4, "dropout": 0.0},
    ],
}
KINDS = ["ddp", "zero1", "zero2", "zero3", "fsdp2"]


def model(seed=0):
    torch.manual_seed(seed)
    return build_model(ModelConfig.model_validate(MODEL))


class Distillation:
    """Token-level distillation (Hinton et al. 2015): KL to a teacher at every real position."""

    name, weight, heads = "distillation", 0.7, frozenset({"mlm"})

    def __init__(self):
        self.teacher = model(seed=1).eval()

    def count(self, batch):
        return int(batch["attention_mask"].sum())

    def __call__(self, outputs, batch):
        with torch.no_grad():
            wanted = self.teacher.predict(batch)["mlm"]
        logits = outputs["logits.mlm"] / TEMPERATURE
        divergence = F.kl_div(
            logits.log_softmax(-1),
            (wanted / TEMPERATURE).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        return (divergence * batch["attention_mask"]).sum() * TEMPERATURE**2


class Replay:
    """DER++ (Buzzega et al. 2020): squared distance to logits that the batch holds for some rows.

    The head has no labels, and some micro-batches no such row.
    """

    name, weight, heads = "replay", 0.5, frozenset({"old"})

    def count(self, batch):
        return int(batch["stored"].isfinite().all(-1).sum())

    def __call__(self, outputs, batch):
        known = batch["stored"].isfinite().all(-1)
        return (outputs["logits.old"] - batch["stored"])[known].square().mean(-1).sum()


def window(step, rank, world, micro=2):
    """One rank's part of a step; ranks and micro-batches have very different token counts."""
    g = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 30, (ROWS, LENGTH), generator=g)
    lengths = torch.tensor([1, 2, 1, 3, 8, 7, 8, 6])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    tokens = torch.where((torch.rand(ROWS, LENGTH, generator=g) < 0.3) & (mask > 0), ids, -100)
    tokens[:, 0] = ids[:, 0]
    stored = torch.randn(ROWS, 3, generator=g)
    stored[[0, 1, 5]] = torch.nan
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels.mlm": tokens,
        "labels.new": ids[:, 0] % 4,
        "stored": stored,
    }
    size = ROWS // world // micro
    begins = range(rank * ROWS // world, (rank + 1) * ROWS // world, size)
    return [{key: value[b : b + size] for key, value in batch.items()} for b in begins]


def trained(engine, **cut):
    """Losses of every step and the weights after the last one."""
    extra, metrics = (Distillation(), Replay()), []
    for step in range(STEPS):
        batches = window(step, engine.rank, engine.world, **cut)
        metrics.append(dict(engine.forward_backward(batches, extra=extra)))
        clip_gradients(engine, 1.0)
        engine.set_lr(3e-3)
        engine.step()
    return {"metrics": metrics, "weights": engine.gathered()}


def repeats(engine):
    """Return whether a second pass over a window leaves the same gradients, bit for bit."""
    gradients = []
    for _ in range(2):
        engine.forward_backward(window(0, engine.rank, engine.world), extra=(Distillation(),))
        gradients.append([shard.grad.clone() for shard in engine.shards()])
    return all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def on_rank(rank, world, folder):
    """Train with every engine in one pair of processes."""
    from orchestrator.cluster.engines import build_engine

    found = {}
    for kind in KINDS:
        settings = {"type": kind}
        if kind.startswith("zero"):
            settings = {"type": "zero", "zero_stage": int(kind[-1])}
        engine = build_engine(model(), OPTIMIZER, EngineConfig(**settings), world=world)
        found[kind] = {**trained(engine), "repeats": repeats(engine)}
    torch.save(found, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extra")
    spawn(on_rank, 2, folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """One process, the whole batch in one pass."""
    return trained(SingleEngine(model(), OPTIMIZER), micro=1)


def assert_same_weights(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("micro", [2, 8])
def test_accumulation_does_not_change_the_run(alone, micro):
    cut = trained(SingleEngine(model(), OPTIMIZER), micro=micro)
    assert_same_weights(cut["weights"], alone["weights"])
    for found, expected in zip(cut["metrics"], alone["metrics"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_like_one_process(two_ranks, alone, kind):
    first, second = (rank[kind] for rank in two_ranks)
    assert_same_weights(first["weights"], alone["weights"])
    assert first["metrics"] == second["metrics"]
    for found, expected in zip(first["metrics"], alone["metrics"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_pass_leaves_the_same_gradients(two_ranks, kind):
    assert all(rank[kind]["repeats"] for rank in two_ranks)


def test_the_terms_change_the_weights_and_train_a_head_without_labels(alone):
    plain = SingleEngine(model(), OPTIMIZER)
    for step in range(STEPS):
        plain.forward_backward(window(step, 0, 1, micro=1))
        clip_gradients(plain, 1.0)
        plain.set_lr(3e-3)
        plain.step()
    start, without, found = dict(model().named_parameters()), plain.gathered(), alone["weights"]
    assert torch.equal(without["targets.old.output.weight"], start["targets.old.output.weight"])
    moved = found["targets.old.output.weight"] - start["targets.old.output.weight"]
    assert moved.abs().max() > 0.01
    assert (found["embedding.word.weight"] - without["embedding.word.weight"]).abs().max() > 1e-3


def test_the_objective_is_the_weighted_sum_of_means():
    """Against the terms written out by hand over the whole batch."""
    engine, distillation, replay = SingleEngine(model(), OPTIMIZER), Distillation(), Replay()
    (batch,) = window(3, 0, 1, micro=1)
    reference = model()
    logits = reference.predict(batch)
    expected = sum(
        reference(batch)[f"loss.{name}"] / reference(batch)[f"count.{name}"]
        for name in ("mlm", "new")
    )
    parts = {f"logits.{name}": value for name, value in logits.items()}
    expected = expected + 0.7 * distillation(parts, batch) / batch["attention_mask"].sum()
    expected = expected + 0.5 * replay(parts, batch) / 5
    expected.backward()
    metrics = engine.forward_backward(window(3, 0, 1, micro=4), extra=(distillation, replay))
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["count.distillation"] == 36
    assert metrics["count.replay"] == 5
    assert "accuracy.replay" not in metrics
    named = dict(reference.named_parameters())
    for shard in engine.shards():
        wanted = named[shard.name].grad.view(-1)
        torch.testing.assert_close(shard.grad, wanted, atol=1e-6, rtol=1e-4)


def test_a_window_without_labels_may_have_an_extra_term():
    engine = SingleEngine(model(), OPTIMIZER)
    batches = [{k: v for k, v in b.items() if not k.startswith("labels")} for b in window(0, 0, 1)]
    metrics = engine.forward_backward(batches, extra=(Replay(),))
    assert metrics["loss"] == pytest.approx(0.5 * metrics["loss.replay"])
    with pytest.raises(NoLabelsError):
        engine.forward_backward(batches)


def test_a_term_that_does_not_fit_is_refused():
    engine, term = SingleEngine(model(), OPTIMIZER), Replay()
    term.name = "new"
    with pytest.raises(InputError, match="two losses are named 'new'"):
        engine.forward_backward(window(0, 0, 1), extra=(term,))
    term.name, term.heads = "replay", frozenset({"older"})
    with pytest.raises(InputError, match="logits of older; the model's targets are mlm, old, new"):
        engine.forward_backward(window(0, 0, 1), extra=(term,))
