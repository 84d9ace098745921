"""A run killed between its commit and the record of its result has nothing left to do.

The folder and the zoo are copied at the moment at which the run would record its result, and put
back when it has unwound: what a SIGKILL would have left on the disk.
"""

import shutil

import pytest

from orchestrator.cluster import launcher, tune
from orchestrator.config import validate_config
from orchestrator.continual import runner as continual
from orchestrator.finetuning import runner as finetuning
from orchestrator.pretraining import runner as pretraining
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.quantization import runner as quantization
from orchestrator.selection import select_runner
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.integration import test_quantize
from tests.support.candidates import FINE_TUNE, make_world, select_job
from tests.support.lessons import job as lesson_job
from tests.support.lessons import make_lessons
from tests.support.streams import job as stream_job
from tests.support.streams import make_place


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def pretrain(place):
    (place / "text").mkdir()
    names = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"]
    for index in range(40):
        words = [names[(index * step) % len(names)] for step in range(3 + index)]
        (place / "text" / f"{index}.txt").write_text(" ".join(words))
    return pretraining.run, validate_config(
        PretrainConfig,
        {
            "run": {"name": "killed", "dir": f"{place}/runs", "zoo": f"{place}/zoo"},
            "data": {
                "data": {"source": f"files:{place}/text"},
                "tokenizer": {"vocab_size": 300},
                "block_size": 16,
            },
            "model": {
                "hidden_size": 16,
                "max_position_embeddings": 16,
                "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2},
                "target": "mlm",
            },
            "train": {"max_steps": 2, "global_batch_size": 4, "micro_batch_size": 4},
            "package": {"name": "child"},
        },
        "test",
    )


def select(place):
    make_world(place, encoders=("bert", "conv"))
    return select_runner.run, select_job(
        place,
        "killed",
        package="child",
        matrix=None,
        recall={"mode": "all"},
        halving={"policy": "sh"},
        fine_tune={**FINE_TUNE, "epochs": 1},
    )


def learn(place):
    make_place(place)
    return continual.run, stream_job(
        place, output="child", promotion={"alias": "champion", "allow_unverified": ["earlier"]}
    )


def quantize(place):
    test_quantize.write_rows(place)
    test_quantize.commit_trained(place, "bert")
    return quantization.run, test_quantize.job(place, output="child", mixed_plans=0)


def adapt(place):
    make_lessons(place)
    return finetuning.run, lesson_job(place, train={"epochs": 1, "max_length": 16})


STAGES = (pretrain, select, learn, quantize, adapt)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_after_its_commit_records_its_result(stage, local_ray, tmp_path, monkeypatch):
    place, saved = tmp_path / "place", tmp_path / "saved"
    place.mkdir()
    run, config = stage(place)

    def killed(folder, result):
        shutil.copytree(place, saved)
        raise Killed(result.model_dump_json())

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", killed)
        with pytest.raises(Killed) as caught:
            run(config)
    shutil.rmtree(place)
    saved.rename(place)
    committed = [package.ref for package in Zoo(config.run.zoo).packages()]

    def nothing_is_trained(*_, **__):
        raise AssertionError("the run asked for workers")

    monkeypatch.setattr(launcher, "launch", nothing_is_trained)
    monkeypatch.setattr(tune, "run_queue", nothing_is_trained)
    monkeypatch.setattr(quantization, "TaskPool", nothing_is_trained)
    result = run(config)
    assert result.model_dump_json() == str(caught.value)
    assert result.package.startswith("child/")
    assert [package.ref for package in Zoo(config.run.zoo).packages()] == committed
    assert run(config) == result
