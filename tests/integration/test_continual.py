"""A C&F stream on two Ray workers under ZeRO-2 is the stream of one process, and commits once."""

import numpy as np
import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.continual import runner, worker
from orchestrator.continual.config import ContinualInputs
from orchestrator.continual.outcome import Outcome
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import units_of
from orchestrator.modeling.package import load_model
from orchestrator.training.config import EngineConfig
from orchestrator.zoo import Zoo
from tests.support.streams import job, make_place

METHOD = {
    "preset": "c&f+replay",
    "find": {"penalty": 0.5, "fisher_samples": 16},
    "clamp": {"radius": 0.5, "floor": 0.02},
    "replay": {"every_steps": 5},
}
TRAIN = {
    "max_steps": 12,
    "global_batch_size": 8,
    "micro_batch_size": 2,
    "optimizer": {"learning_rate": 5e-3, "eps": 1e-6},
    "log_every_steps": 1,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Without dropout, whose noise depends on the number of workers."""
    place = make_place(tmp_path_factory.mktemp("continual"), dropout=0.0)
    return job(
        place,
        method=METHOD,
        train=TRAIN,
        dropout=0.0,
        cluster={"workers": 2},
        engine={"type": "zero", "zero_stage": 2},
        promotion={
            "max_forgetting": 1.0,
            "alias": "champion",
            "allow_unverified": ["earlier"],  # the encoder of this place was made without a suite
        },
    )


@pytest.fixture(scope="module")
def single(config, tmp_path_factory):
    """The same stream in this process."""
    alone = config.model_copy(update={"engine": EngineConfig(type="single")})
    alone = alone.model_copy(update={"cluster": config.cluster.model_copy(update={"workers": 1})})
    folder = tmp_path_factory.mktemp("single")
    payload = ContinualInputs(config=alone, zoo=config.run.zoo, package="encoder")
    worker.run(Worker.alone(folder), payload)
    return Outcome.read(
        alone, Zoo(config.run.zoo).get("encoder"), Stages(folder / "stream", units_of(alone))
    )


@pytest.fixture(scope="module")
def result(config, local_ray):
    return runner.run(config)


def test_matrix_and_weights_are_those_of_one_process(config, single, result):
    matrix = np.array(result.metrics["accuracy_matrix"], dtype=float)
    rows = len(single.stream.tasks[0].test)
    np.testing.assert_allclose(matrix, single.matrix, atol=1.01 / rows)
    package = Zoo(config.run.zoo).get(result.package)
    weights = dict(load_model(package.path).state_dict())
    for name, expected in single.stages.weights(1).items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=2e-4, msg=name)


def test_the_method_was_at_work(config, result):
    frame = Zoo(config.run.zoo).get(result.package).history()
    last = frame[(frame.split == "train") & (frame.step > 12)].groupby("metric")["value"]
    assert last.max()["penalty"] > 0
    assert 0 < last.max()["clamped_share"] < 1
    assert last.mean()["sharpness"] > 0
    assert "replay_loss" in last.groups


def test_package_says_where_it_comes_from(config, result):
    package = Zoo(config.run.zoo).get("continual@champion")
    assert package.ref == result.package
    assert package.kind == "continual"
    assert [parent.ref for parent in package.manifest.parents] == ["encoder/v0001"]
    assert package.read_json("evaluation/accuracy_matrix.json")["tasks"] == ["task0", "task1"]
    assert result.metrics["promotion"] == "promoted"


def test_the_same_run_returns_at_once_and_commits_nothing(config, result, monkeypatch):
    monkeypatch.setattr(runner, "_learn", None)
    again = runner.run(config)
    assert again == result
    assert len([p for p in Zoo(config.run.zoo).packages() if p.name == "continual"]) == 1
