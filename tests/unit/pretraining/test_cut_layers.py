"""The whole worker function under engines that cut layers, on two gloo processes."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.cluster.context import Worker
from orchestrator.pretraining.results import Interrupted, Summary
from orchestrator.pretraining.worker import EXPORT, HISTORY, pretrain
from tests.support.ranks import spawn

pytestmark = pytest.mark.slow
MODEL = ["model.embedding.dropout=0", "model.encoder.dropout=0", "model.encoder.num_layers=2"]
ENGINES = {
    "tensor": ["engine={type: fsdp2, tensor_parallel: 2}"],
    "sequence": ["engine={type: fsdp2, tensor_parallel: 2, sequence_parallel: true}"],
    "expert": ["engine={type: fsdp2, expert_parallel: 2}"],
}
EXPERTS = ["model.encoder.experts={num_experts: 4}", "train.micro_batch_size=4"]


class Stopping(Worker):
    """Rank 0 is asked to stop after a step."""

    __slots__ = ()

    def should_stop(self):
        return self.rank == 0 and (self.run_dir / "checkpoints" / "step-00000002").is_dir()


def on_rank(rank, world, folder, job, kind):
    outcome = pretrain(kind(rank=rank, world=world, run_dir=folder), job)
    assert isinstance(outcome, Interrupted if kind is Stopping else Summary)


def figures(folder):
    """Weights of the export, and losses and gradient norms by step and split."""
    history = pd.read_parquet(folder / EXPORT / HISTORY)
    kept = history[history.metric.isin(["loss", "grad_norm", "tokens"])]
    return load_file(folder / EXPORT / "model.safetensors"), {
        (row.step, row.split, row.metric): row.value for row in kept.itertuples()
    }


@pytest.mark.parametrize("kind", ENGINES)
def test_a_run_is_that_of_one_process(make_job, tmp_path, kind):
    """Curve, tokens, evaluation, a stop and its continuation, and the exported weights."""
    model = MODEL + (EXPERTS if kind == "expert" else [])
    pretrain(Worker.alone(tmp_path / "alone"), make_job(*model, run_dir=tmp_path / "alone"))
    folder = tmp_path / "cut"
    folder.mkdir()
    job = make_job(*model, *ENGINES[kind], "cluster.workers=2", run_dir=folder)
    for context in (Stopping, Worker):
        spawn(on_rank, 2, folder, job, context)
    (weights, rows), (expected, wanted) = figures(folder), figures(tmp_path / "alone")
    assert list(weights) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5, msg=name)
    assert rows.keys() == wanted.keys()
    assert rows == pytest.approx(wanted, rel=1e-5)
