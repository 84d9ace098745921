"""TensorBoard files of a run that was interrupted; what a tracking section refuses."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from tensorboardX import record_writer

from orchestrator.cluster.observe.tracking import TensorBoard
from orchestrator.config.strict import collect_problems
from orchestrator.errors import InputError
from orchestrator.training.config import MlflowConfig, TrackingSection
from orchestrator.training.events import Measurement


def measured(step, loss):
    metrics = {"loss": loss}
    return Measurement(split="train", step=step, epoch=0.0, metrics=metrics, seconds=0.0)


def curve(folder):
    """Read the files back as TensorBoard shows them: step -> loss."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="reading event files back needs the package tensorboard",
    )
    found = reader.EventAccumulator(str(folder)).Reload().Scalars("train/loss")
    steps = [each.step for each in found]
    assert len(set(steps)) == len(steps)
    return {each.step: each.value for each in found}


def test_steps_that_are_trained_again_are_shown_once(tmp_path):
    first = TensorBoard(tmp_path)
    first.resume(0)
    for step in range(1, 7):
        first.observe(measured(step, 1.0))
    first.resume(4)  # the workers were lost after the checkpoint of step 4
    first.observe(measured(5, 2.0))
    first.close()
    second = TensorBoard(tmp_path)  # then the driver: another process, another file
    second.resume(4)
    for step in (5, 6):
        second.observe(measured(step, 3.0))
    second.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert curve(tmp_path) == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 3.0, 6: 3.0}
    shutil.rmtree(tmp_path)


def test_a_full_disk_ends_the_curves_and_not_the_training(tmp_path, monkeypatch, caplog):
    """Written by a thread that ends at the first error, the eleventh value would wait for ever."""
    full = Path("/dev/full").open("wb")  # noqa: SIM115 - the writer closes it
    monkeypatch.setattr(record_writer, "open_file", lambda path: full)
    board = TensorBoard(tmp_path)
    for step in range(500):
        board.observe(measured(step, 1.0))
    board.close()
    assert "TensorBoard gets no more values" in caplog.text


def test_without_mlflow_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    TrackingSection().require_installed()
    with pytest.raises(InputError, match=r"pip install 'ray-model-orchestrator\[tracking\]'"):
        TrackingSection(mlflow=MlflowConfig()).require_installed()


def test_passwords_do_not_belong_into_a_config():
    section = MlflowConfig(tracking_uri="https://me:secret@example.org")
    (problem,) = collect_problems(TrackingSection(mlflow=section))
    assert problem.path == "mlflow.tracking_uri"
    assert "MLFLOW_TRACKING_PASSWORD" in problem.message
    assert "secret" not in problem.message
    assert collect_problems(MlflowConfig(tracking_uri="sqlite:///runs/mlflow.db")) == []
