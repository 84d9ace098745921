"""Fine-tuning and continual learning under engines that read their parts of a package."""

import os

import pytest

from orchestrator.cluster.context import Worker
from orchestrator.continual.config import ContinualInputs
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import units_of
from orchestrator.continual.worker import run
from orchestrator.finetuning.worker import finetune
from orchestrator.training.history import History
from tests.support import lessons, streams
from tests.support.tensor_worker import spawn

pytestmark = pytest.mark.slow
ENGINES = {
    "ddp": {"type": "ddp"},
    "zero2": {"type": "zero", "zero_stage": 2},
    "zero3": {"type": "zero", "zero_stage": 3},
    "fsdp2": {"type": "fsdp2"},
}
TRAIN = {"epochs": 1, "global_batch_size": 16, "max_length": 16, "dropout": 0.0}
ADAPTED = {"lora": {"rank": 2}}
STREAM = {
    "max_steps": 6,
    "global_batch_size": 8,
    "micro_batch_size": 4,
    "optimizer": {"learning_rate": 1e-3},
    "log_every_steps": 1,
}


def losses(history):
    return [
        row.value
        for row in history.rows
        if row.metric.startswith("loss") and row.split in ("train", "validation")
    ]


def learn(worker, place, engine, more):
    """Losses of a fine-tuned package."""
    config = lessons.job(
        place, train=TRAIN | more, engine=engine, cluster={"workers": worker.world}
    )
    finetune(worker, lessons.planned(config, worker.run_dir))
    return losses(History.from_parquet(worker.run_dir / "export" / "history.parquet"))


def follow(worker, place, engine):
    """Losses of both units of a stream; the second begins with the weights of the first."""
    cluster = {"workers": worker.world}
    config = streams.job(place, train=STREAM, engine=engine, cluster=cluster)
    worker.run_dir.mkdir(exist_ok=True)
    run(worker, ContinualInputs(config=config, zoo=config.run.zoo, package="encoder"))
    stages = Stages(worker.run_dir / "stream", units_of(config))
    return [loss for index in (0, 1) for loss in losses(stages.history(index))]


def on_rank(rank, world, folder, place):
    os.environ |= {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    found = {}
    for name, engine in ENGINES.items():
        for more in ({}, ADAPTED) if name != "zero2" else ({},):
            key = f"{name} {'adapted' if more else 'whole'}"
            found[key] = learn(Worker(rank, world, folder / key), place, engine, more)
        found[f"{name} stream"] = follow(Worker(rank, world, folder / f"{name}-s"), place, engine)
    return found


def test_engines_learn_the_same_whether_they_build_whole_models_or_parts(tmp_path):
    """Under DDP every rank loads the whole package."""
    (tmp_path / "lessons").mkdir()
    found = spawn(on_rank, tmp_path, 2, lessons.make_lessons(tmp_path / "lessons"))[0]
    for key, values in found.items():
        expected = found[f"ddp {key.split()[1]}"]
        assert len(values) >= 2
        assert values == pytest.approx(expected, rel=1e-4), key
