"""A run that is out of memory goes on under its name, with more sharding and smaller parts.

Two processes with gloo, the product's own way from the config to the export; no Ray.
"""

from pathlib import Path

import pandas as pd
import pytest

from orchestrator.pretraining import runner
from orchestrator.pretraining.results import Interrupted, Summary
from orchestrator.pretraining.state import PretrainJob
from orchestrator.pretraining.worker import EXPORT, HISTORY, pretrain
from tests.support.ranks import spawn
from tests.unit.pretraining.conftest import Recording

pytestmark = pytest.mark.slow

WORLD = 2
STEPS, STOPPED = 12, 7
JOB = (
    f"cluster.workers={WORLD}",
    "train.global_batch_size=16",
    f"train.max_steps={STEPS}",
    "train.checkpoint_every_steps=3",
    "train.optimizer.learning_rate=3e-3",
    "model.embedding.dropout=0",
    "model.encoder={type: transformer, num_layers: 2, num_heads: 2, dropout: 0, activation: relu}",
)
FIRST = ("engine={type: zero, zero_stage: 1}", "train.micro_batch_size=8")
THEN = (
    "engine={type: zero, zero_stage: 3, activation_checkpointing: true}",
    "train.micro_batch_size=2",
    "train.eval_batch_size=2",
)


def on_rank(rank, world, folder, job, stop_after):
    job = PretrainJob.model_validate_json(job)
    worker = Recording(rank=rank, world=world, run_dir=folder, stop_after=stop_after)
    result = pretrain(worker.within(Path(job.run_dir)).claimed(), job)
    if rank == 0:
        (folder / "result.json").write_text(result.model_dump_json())
        lines = [event.message for event in worker.events if getattr(event, "message", "")]
        (folder / "lines").write_text("\n".join(lines))


def train(folder, config, stop_after=()):
    """Run a job on two processes; return what rank 0 returned, and what was said."""
    folder.mkdir()
    with runner.open_run(config) as run:
        job = runner._Work(config, run).prepare().model_dump_json()
        spawn(on_rank, WORLD, folder, job, stop_after)
        return run.path, (folder / "result.json").read_text(), (folder / "lines").read_text()


def losses(path):
    rows = pd.read_parquet(path / EXPORT / HISTORY)
    return rows[rows.metric == "loss"].set_index(["split", "step"]).value


def test_zero_1_with_large_parts_goes_on_as_zero_3_with_small_ones(make_config, tmp_path):
    path, stopped, _ = train(tmp_path / "1", make_config(*JOB, *FIRST), (STOPPED,))
    assert Interrupted.model_validate_json(stopped).step == STOPPED + 1
    path, result, said = train(tmp_path / "2", make_config(*JOB, *THEN))
    assert f"resuming at step {STOPPED + 1} from {path}" in said
    assert Summary.model_validate_json(result).step == STEPS
    whole, _, _ = train(tmp_path / "3", make_config(*JOB, *FIRST, "run.name=whole"))
    mine, reference = losses(path), losses(whole)
    assert mine.loc["train"].index.tolist() == list(range(1, STEPS + 1))
    assert reference.loc["train"].iloc[0] - reference.loc["train"].iloc[-1] > 0.3
    difference = (mine - reference).abs() / reference
    print(f"largest relative difference {difference.max():.1e}")
    assert difference.max() <= 1e-5
