"""One step is one step: whole batch, accumulation, two ranks; against a hand-written loop."""

import copy

import pytest
import torch

from orchestrator.errors import InputError, IntegrityError
from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.loop import Hooks, train
from tests.support.ranks import spawn
from tests.unit.training.toy_model import ToyModel, ToySource

STEPS = 20
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, eps=1e-6)
CONFIG = TrainConfig(
    max_steps=STEPS,
    global_batch_size=8,
    micro_batch_size=8,
    optimizer=OPTIMIZER,
    schedule={"type": "linear", "warmup_steps": 3},
    log_every_steps=1,
)


def run(engine, source, config=CONFIG, **options):
    losses = []
    hooks = Hooks(observer=lambda e: losses.append(e.metrics["loss"]))
    train(engine, source, config, hooks=hooks, **options)
    return losses


def weights(engine):
    return dict(engine.state_dict())


def reference_run():
    """Plain torch, fp64, whole batch: what every engine must reproduce."""
    model = ToyModel().double()
    named = dict(model.named_parameters())
    tables_and_vectors = {n for n, p in named.items() if p.dim() < 2 or n.startswith("embedding")}
    groups = [
        {
            "params": [
                p for n, p in named.items() if n not in tables_and_vectors and "targets.b" not in n
            ]
        },
        {
            "params": [named[n] for n in sorted(tables_and_vectors) if "targets.b" not in n],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.1, eps=1e-6)
    losses = []
    for step in range(STEPS):
        lr = 1e-2 * ((step + 1) / 3 if step < 3 else (STEPS - step) / (STEPS - 3))
        for group in optimizer.param_groups:
            group["lr"] = lr
        (batch,) = ToySource().window(step, 0, 1)
        out = model(batch)
        loss = out["loss.lm"] / out["count.lm"] + out["loss.a"] / out["count.a"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, {k: v.float() for k, v in model.state_dict().items()}


@pytest.fixture(scope="module")
def reference():
    return reference_run()


def assert_equal_runs(losses, state, reference):
    assert losses == pytest.approx(reference[0], rel=1e-4)
    for name, tensor in state.items():
        difference = (tensor - reference[1][name]).abs().max()
        assert difference <= 5e-6, f"{name}: {difference}"


@pytest.mark.parametrize("micro", [8, 4, 2])
def test_accumulation_does_not_change_the_run(micro, reference):
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    losses = run(engine, ToySource(micro=micro))
    assert_equal_runs(losses, weights(engine), reference)


def ddp_rank(rank, world, folder):
    from orchestrator.training.engines.torch_engines import DDPEngine

    engine = DDPEngine(ToyModel(seed=rank), OPTIMIZER)
    uneven = [w for i in range(3 - rank) for w in ToySource().window(50 + i, 0, 1)]
    measured = engine.evaluate(uneven)
    losses = run(engine, ToySource(micro=2))
    engine.save(folder / "state")
    torch.save({"losses": losses, "measured": measured}, folder / f"rank{rank}.pt")
    idle = copy.deepcopy(dict(engine.module.targets["a"].named_parameters()))
    window = [ToySource(heads=("b" if rank else "lm",)).window(0, rank, world)[0]]
    window += [ToySource(heads=("lm" if rank else "b",)).window(1, rank, world)[0]]
    engine.forward_backward(window)
    mixed = {s.name: s.grad.clone() for s in engine.shards()}
    engine.step()
    moved = [
        n for n, p in engine.module.targets["a"].named_parameters() if not torch.equal(p, idle[n])
    ]
    torch.save({"mixed": mixed, "moved": moved}, folder / f"mixed{rank}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    spawn(ddp_rank, 2, folder)
    return folder


def test_two_ranks_equal_one_process(two_ranks, reference):
    single = SingleEngine(ToyModel(), OPTIMIZER)
    single.load(two_ranks / "state")
    for rank in range(2):
        losses = torch.load(two_ranks / f"rank{rank}.pt")["losses"]
        assert_equal_runs(losses, weights(single), reference)


def test_evaluation_is_exact_over_ranks_with_uneven_batches(two_ranks):
    engine = SingleEngine(ToyModel(seed=0), OPTIMIZER)
    batches = [
        w for count in (3, 2) for i in range(count) for w in ToySource().window(50 + i, 0, 1)
    ]
    expected = engine.evaluate(batches)
    for rank in range(2):
        measured = torch.load(two_ranks / f"rank{rank}.pt")["measured"]
        assert measured == pytest.approx(expected, rel=1e-6)


def test_heads_that_differ_between_ranks_and_micro_batches(two_ranks):
    """Rank 0 has lm then b, rank 1 b then lm; the sum over both is one window of four batches."""
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    engine.load(two_ranks / "state")
    window = [
        ToySource(heads=(head,)).window(step, rank, 2)[0]
        for rank, step, head in ((0, 0, "lm"), (1, 0, "b"), (0, 1, "b"), (1, 1, "lm"))
    ]
    engine.forward_backward(window)
    for rank in range(2):
        found = torch.load(two_ranks / f"mixed{rank}.pt")
        assert found["moved"] == []
        for shard in engine.shards():
            torch.testing.assert_close(found["mixed"][shard.name], shard.grad, rtol=1e-4, atol=1e-6)


def test_forward_backward_is_idempotent():
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    window = ToySource(micro=4).window(0, 0, 1)
    first, grads = engine.forward_backward(window), [s.grad.clone() for s in engine.shards()]
    assert engine.forward_backward(window) == first
    assert all(torch.equal(a, s.grad) for a, s in zip(grads, engine.shards(), strict=True))


def test_shards_are_real_elements_once():
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    names = [shard.name for shard in engine.shards()]
    assert "encoder.frozen" not in names
    assert "targets.lm.weight" not in names
    assert "embedding.word.weight" in names
    wanted = sum(p.numel() for p in engine.module.parameters() if p.requires_grad)
    assert sum(shard.master.numel() for shard in engine.shards()) == wanted


def test_writing_into_a_shard_changes_the_model():
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    shard = next(s for s in engine.shards() if s.name == "encoder.gain")
    shard.master.fill_(4.0)
    assert engine.module.encoder.gain.item() == 4.0


def test_idle_heads_have_zero_gradient_and_do_not_move():
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    for step in range(3):
        engine.forward_backward(ToySource(heads=("a", "b")).window(step, 0, 1))
        engine.step()
    before = engine.gathered()
    for step in range(3):
        engine.forward_backward(ToySource(heads=("a",)).window(step, 0, 1))
        idle = [s for s in engine.shards() if s.name.startswith("targets.b.")]
        assert len(idle) == 2
        assert all(float(s.grad.abs().max()) == 0.0 for s in idle)
        engine.step()
    after = engine.gathered()
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("targets.b."))
    assert not torch.equal(before["encoder.inner.weight"], after["encoder.inner.weight"])


def test_projection_runs_after_the_update():
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    engine.forward_backward(ToySource().window(0, 0, 1))
    engine.step(project=lambda shards: [s.master.clamp_(-0.01, 0.01) for s in shards])
    assert max(float(s.master.abs().max()) for s in engine.shards()) <= 0.01


def test_bf16_keeps_fp32_masters_and_learns():
    engine = SingleEngine(ToyModel(), OPTIMIZER, precision="bf16")
    losses = run(engine, ToySource())
    assert all(s.master.dtype == torch.float32 for s in engine.shards())
    assert losses[-1] < losses[0]


def test_resumed_run_is_bit_equal_with_dropout(tmp_path):
    whole = SingleEngine(ToyModel(dropout=0.3), OPTIMIZER)
    expected = run(whole, ToySource(micro=4), seed=5)
    first = SingleEngine(ToyModel(dropout=0.3), OPTIMIZER)
    early = run(first, ToySource(micro=4), seed=5, until_step=9)
    first.save(tmp_path)
    torch.manual_seed(99)
    second = SingleEngine(ToyModel(seed=42, dropout=0.3), OPTIMIZER)
    second.load(tmp_path)
    late = run(second, ToySource(micro=4), seed=5, first_step=9)
    assert early + late == expected
    final, wanted = second.gathered(), whole.gathered()
    assert all(torch.equal(final[n], wanted[n]) for n in wanted)


def test_state_of_another_model_is_refused(tmp_path):
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    engine.save(tmp_path)
    other = ToyModel()
    del other.targets["b"]
    with pytest.raises(IntegrityError, match=r"targets\.b\.output"):
        SingleEngine(other, OPTIMIZER).load(tmp_path)


def test_missing_state_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="no training state"):
        SingleEngine(ToyModel(), OPTIMIZER).load(tmp_path)


def test_an_empty_window_is_refused():
    with pytest.raises(InputError, match="no micro-batch"):
        SingleEngine(ToyModel(), OPTIMIZER).forward_backward([])


def test_state_is_a_copy_and_holds_buffers_and_frozen_parameters():
    engine = SingleEngine(ToyModel(), OPTIMIZER)
    state, full = dict(engine.state_dict()), engine.gathered()
    assert set(state) == set(full) | {"encoder.offset"}
    assert "encoder.frozen" in full
    kept = {name: tensor.clone() for name, tensor in state.items()}
    engine.forward_backward(ToySource().window(0, 0, 1))
    engine.step()
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert all(torch.equal(full[name], kept[name]) for name in full)
