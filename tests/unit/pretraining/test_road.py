"""The way of a job from its YAML file to the first optimizer step is short and goes one way."""

import functools
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.pretraining import runner
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.training.engines.torch_engines import SingleEngine

PRODUCT = str(Path(orchestrator.__file__).parent) + "/"
INPUTS = f"{PRODUCT}pretraining/inputs.py"
MAX_DRIVER_FILES, MAX_WORKER_FILES, MAX_FILES = 60, 80, 98
"""Files that calls enter, where the corpus has been made before."""


class FirstStepError(Exception):
    """Ends the trace."""


class Road:
    """Files that calls enter, and what is asked of ``pretraining/inputs.py`` from outside."""

    def __init__(self):
        self.files, self.asked = set(), []

    def __call__(self, frame, event, _argument):
        code = frame.f_code
        if event != "call" or code.co_name == "<module>":
            return
        if code.co_filename.startswith(PRODUCT):
            self.files.add(code.co_filename.removeprefix(PRODUCT))
        if code.co_filename == INPUTS and self._caller(frame) != INPUTS:
            self.asked.append(code.co_qualname)

    def _caller(self, frame):
        """The file that asks; properties are asked through ``functools``."""
        back = frame.f_back
        while back.f_code.co_filename == functools.__file__:
            back = back.f_back
        return back.f_code.co_filename

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


def test_a_job_reaches_its_first_step_on_a_short_way(alone, make_config, monkeypatch):
    def first_step(*_, **__):
        raise FirstStepError

    monkeypatch.setattr(SingleEngine, "step", first_step)
    with RunFolder.open(make_config(), runner.STAGE) as run:
        runner._Work(run.config, run).prepare()  # the corpus is made, plug-ins are loaded
    driver, worker = Road(), Road()
    with driver:
        config = make_config()
    with RunFolder.open(config, runner.STAGE) as run:
        with driver:
            job = runner._Work(config, run).prepare()
        with worker, pytest.raises(FirstStepError):
            pretrain(alone.within(run.path), job)
    both = driver.files | worker.files
    print(f"driver {len(driver.files)}, worker {len(worker.files)}, both {len(both)} files")
    assert "pretraining/plan.py" not in both
    assert len(driver.files) <= MAX_DRIVER_FILES
    assert len(worker.files) <= MAX_WORKER_FILES
    assert len(both) <= MAX_FILES
    # The worker opens its inputs once and takes its steps; nothing is looked up again.
    names = [name for name in worker.asked if not name.startswith("HeldOut.")]
    assert names == ["open_inputs", "PretrainInputs.steps"]
