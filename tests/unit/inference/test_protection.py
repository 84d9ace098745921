"""Importance of weights at the end of fine-tuning, for every kind of task."""

import shutil

import pytest
import torch

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.inference.protection import FISHER, STATE_FILE, protect, stored_tensors
from orchestrator.modeling.package import load_model, read_state
from orchestrator.tasks.suite import Learned
from orchestrator.zoo import Zoo
from tests.support.every_task import CASES, HEAD, MAX_LENGTH, commit, data_of, load, task_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_has_importance(case, tmp_path):
    data = load(case, data_of(case, tmp_path))
    task = task_of(case, data)
    package = commit(Zoo(tmp_path / "zoo"), case, task, "model")
    draft = tmp_path / "draft"
    shutil.copytree(package.path, draft)
    head = task.head
    assert protect(draft, {head: task}, {head: Learned(task, data)}, MAX_LENGTH) == []
    found, weights = stored_tensors(draft, FISHER), read_state(draft)
    assert found.keys() <= weights.keys()
    assert all(found[name].shape == weights[name].shape for name in found)
    assert all(torch.isfinite(value).all() and (value >= 0).all() for value in found.values())
    assert any(value.any() for name, value in found.items() if not name.startswith("targets."))
    assert (draft / STATE_FILE).stat().st_mode == (draft / "config.json").stat().st_mode


def test_it_is_the_mean_of_the_squared_gradients_of_single_rows(tmp_path):
    case = CASES[0]
    data = load(case, data_of(case, tmp_path))
    task = task_of(case, data, HEAD)
    package = commit(Zoo(tmp_path / "zoo"), case, task, "model")
    draft = tmp_path / "draft"
    shutil.copytree(package.path, draft)
    protect(draft, {HEAD: task}, {HEAD: Learned(task, data)}, MAX_LENGTH)
    assert len(data.train) < 128  # all rows are read
    model = load_model(draft).eval()
    samples = task.samples(data.train, open_processor(draft), MAX_LENGTH)
    name = f"targets.{HEAD}.output.weight"
    weight = model.get_parameter(name)
    total = torch.zeros_like(weight)
    for row in range(len(samples)):
        model.zero_grad()
        model(samples.collate(torch.tensor([row]).numpy(), 0))[f"loss.{HEAD}"].backward()
        total += weight.grad.square()
    torch.testing.assert_close(stored_tensors(draft, FISHER)[name], total / len(samples))


def test_a_head_without_rows_is_named_and_nothing_is_written(tmp_path, caplog):
    case = CASES[0]
    data = load(case, data_of(case, tmp_path))
    task = task_of(case, data)
    package = commit(Zoo(tmp_path / "zoo"), case, task, "model")
    assert protect(package.path, {task.head: task}, {}, MAX_LENGTH) == [task.head]
    assert stored_tensors(package.path, FISHER) == {}
    assert f"head {task.head}: nothing measures" in caplog.text
