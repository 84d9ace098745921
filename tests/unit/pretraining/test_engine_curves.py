"""Every engine trains the same: models of the registry, through ``pretrain`` on two processes.

Noise is a function of seed, step and rank, so engines with as many ranks and the same micro-batches
draw the same; without noise the curve is that of one process, however the batch is cut. ReLU is
where sharded sums differ most: a unit whose input is near 0 may fall on the other side.
"""

import os

import pandas as pd
import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.state import PretrainJob
from orchestrator.pretraining.worker import EXPORT, pretrain
from tests.support import tensor_worker

EXACT = 1e-5
"""Largest relative difference of a loss or a gradient norm in twenty steps."""
STEPS = 20
ENGINES = {
    "ddp": ("engine.type=ddp",),
    "zero1": ("engine.type=zero", "engine.zero_stage=1"),
    "zero2": ("engine.type=zero", "engine.zero_stage=2"),
    "zero3": ("engine.type=zero", "engine.zero_stage=3"),
    "fsdp2": ("engine.type=fsdp2",),
}
COMMON = (
    f"train.max_steps={STEPS}",
    "train.eval_every_steps=0",
    "train.checkpoint_every_steps=0",
    "train.optimizer.eps=1e-6",
    "train.max_grad_norm=0.5",
    "model.encoder.num_layers=2",
)
MODELS = {
    "bert": ("model.encoder.activation=relu",),
    "t5": (
        "model.encoder.activation=relu",
        "model.encoder.position_bias={type: t5}",
        "model.encoder.norm=rms",
        "model.target=lm",
        "model.target_embedding={parts: [word], dropout: 0.1}",
        "model.decoder={type: transformer, num_layers: 1, num_heads: 2, activation: relu, "
        "norm: rms, dropout: 0.1}",
        "samples={type: spans}",
        "data.tokenizer={vocab_size: 310, sentinels: 4}",
    ),
}
QUIET = {
    "bert": ("model.embedding.dropout=0", "model.encoder.dropout=0"),
    "t5": (
        "model.embedding.dropout=0",
        "model.encoder.dropout=0",
        "model.target_embedding.dropout=0",
        "model.decoder.dropout=0",
    ),
}


def on_rank(rank, world, folder, jobs):
    """Train the jobs one after the other; the summary of each."""
    os.environ |= {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    found = {}
    for name, text in jobs.items():
        job = PretrainJob.model_validate_json(text)
        worker = Worker(rank=rank, world=world, run_dir=folder / name)
        summary = pretrain(worker, job)
        found[name] = (summary.validation["loss"], summary.skipped_steps, summary.shard_elements)
    return found


def curve(folder):
    """Loss and gradient norm of each step of a run."""
    rows = pd.read_parquet(folder / EXPORT / "history.parquet").query("split == 'train'")
    columns = [rows[rows.metric == each].value.to_numpy() for each in ("loss", "grad_norm")]
    return torch.tensor(list(zip(*columns, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_curves_of_all_engines_are_equal(name, make_config, tmp_path):
    cache, jobs = tmp_path / "corpora", {}

    def job(run, *overrides):
        config = make_config(*COMMON, *MODELS[name], *overrides)
        return prepare_inputs(config, cache).job(tmp_path / run)

    for kind, engine in ENGINES.items():
        two = (*engine, "cluster.workers=2", "train.micro_batch_size=2")
        jobs[f"noisy-{kind}"] = job(f"noisy-{kind}", *two).model_dump_json()
        jobs[f"quiet-{kind}"] = job(f"quiet-{kind}", *QUIET[name], *two).model_dump_json()
    found = tensor_worker.spawn(on_rank, tmp_path, 2, jobs)
    alone = pretrain(
        Worker.alone(tmp_path / "alone"), job("alone", *QUIET[name], "train.micro_batch_size=8")
    )
    expected = {"quiet": curve(tmp_path / "alone"), "noisy": curve(tmp_path / "noisy-ddp")}
    assert expected["quiet"].shape == (STEPS, 2)
    assert expected["quiet"][:, 1].max() > 0.5  # gradients were clipped
    assert not torch.equal(*expected.values())
    losses = {"quiet": alone.validation["loss"], "noisy": found[0]["noisy-ddp"][0]}
    for run in jobs:
        kind = run.partition("-")[0]
        rows = curve(tmp_path / run)
        torch.testing.assert_close(rows, expected[kind], rtol=EXACT, atol=0, msg=run)
        loss, skipped, _ = found[0][run]
        assert loss == pytest.approx(losses[kind], rel=EXACT)
        assert skipped == 0
    whole = found[0]["quiet-ddp"][2]
    for kind in set(ENGINES) - {"ddp"}:
        assert sum(rank[f"quiet-{kind}"][2] for rank in found) == whole
