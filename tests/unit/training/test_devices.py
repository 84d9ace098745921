"""Model and batches move to the device that is reserved: trials, fine-tuning, continual units."""

import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.continual.config import ContinualInputs
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import Stream, units_of
from orchestrator.continual.worker import Learner
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.finetuning.worker import finetune
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.training import worker_context
from orchestrator.training.config import FineTuneConfig
from orchestrator.training.engines import torch_engines
from orchestrator.training.worker_context import reserved_device
from orchestrator.zoo import Zoo
from tests.support.fake_device import DEVICE, FakeDevice, sgd, without_autocast
from tests.support.lessons import job, make_lessons, planned
from tests.support.streams import job as stream_job


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(torch_engines, "build_optimizer", sgd)
    without_autocast(monkeypatch)
    with FakeDevice() as mode:
        yield mode


def test_a_gpu_that_is_not_there_is_one_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reserved_device(0) == torch.device("cpu")
    with pytest.raises(InputError, match=r"gpus_per_worker is 0\.5, but torch finds no GPU"):
        reserved_device(0.5)


def test_a_trial_computes_on_the_reserved_device(place, tmp_path, fake, monkeypatch):
    asked = []
    monkeypatch.setattr(
        worker_context, "reserved_device", lambda gpus: asked.append(gpus) or DEVICE
    )
    payload = TrialPayload(
        trial="t",
        package="encoder/v0001",
        zoo=str(place / "zoo"),
        task=DatasetSpec(source=f"files:{place}/task2.jsonl"),
        fine_tune=FineTuneConfig(epochs=2, max_length=16),
        seed=1,
        state=str(tmp_path / "state"),
        gpus=1.0,
    )
    FineTuneTrial(payload).step()
    assert asked == [1.0]
    assert fake.operations > 100


@pytest.mark.parametrize("file", ["task2", "multilabel", "numbers"])
def test_the_stage_computes_on_the_device_of_its_worker(place, tmp_path, fake, file):
    config = job(place, file, train={"epochs": 1, "max_length": 16})
    finetune(Worker(0, 1, tmp_path, DEVICE), planned(config, tmp_path))
    assert fake.operations > 100


def test_a_continual_unit_computes_on_the_device_of_its_worker(place, tmp_path, fake):
    config = stream_job(place, method={"preset": "finetune"})
    context = Worker(0, 1, tmp_path, DEVICE)
    package = Zoo(place / "zoo").get("encoder").path
    inputs = ContinualInputs(config=config, zoo=str(place / "zoo"), package="encoder/v0001")
    stages = Stages(tmp_path / "stream", units_of(config))
    stream = Stream.load(inputs.config, package)
    assert Learner(context, config, stream, stages, package).learn(units_of(config)[0])
    assert fake.operations > 100
