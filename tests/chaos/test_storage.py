"""Row 8: a process that saves checkpoints is killed at random moments; nothing is unreadable."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.storage.claims import FencedError
from orchestrator.storage.operations import fault_hook
from orchestrator.training.config import EngineConfig, OptimizerConfig
from tests.support.state import AnyState
from tests.support.toy import toy_model, toy_window

KILLS = int(os.environ.get("CHAOS_SAVES", "200"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
STEPS = 12
SHUT_OUT = 7
OPERATIONS = 60  # about as many as a few commits have

pytestmark = pytest.mark.chaos


def saving(folder, first=0, on_step=lambda step: None):
    """Train and save after each step, while the save before it is still being written."""
    ctx = Worker.alone(folder)
    engine = built(ctx)
    found = ctx.latest_checkpoint()
    if found is not None:
        engine.load(found.path)
        first = found.step
    losses = found.read(AnyState).losses if found else []
    for step in range(first, STEPS):
        losses.append(engine.forward_backward(toy_window(step, 0, 1))["loss"])
        engine.set_lr(3e-3)
        engine.step()
        ctx.begin_checkpoint(step + 1, engine, AnyState(losses=losses))
        on_step(step)
    ctx.settle_checkpoint()
    return losses, engine.gathered()


def test_a_writer_that_was_suspended_while_another_went_on_changes_nothing(tmp_path):
    """As on a host that is cut off from the head, and reaches the storage."""
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:
        try:
            ctx = Worker.alone(tmp_path).claimed()
            engine = built(ctx)
            for step in range(STEPS):
                ctx.commit_checkpoint(step + 1, engine, AnyState(losses=[]))
                if step == STEPS // 2:
                    os.kill(os.getpid(), signal.SIGSTOP)
        except FencedError:
            os._exit(SHUT_OUT)
        finally:
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    ctx = Worker.alone(tmp_path).claimed()
    found = ctx.latest_checkpoint()
    assert found.step == STEPS // 2 + 1
    engine = built(ctx)
    engine.load(found.path)
    for step in (found.step + 1, found.step + 2):
        ctx.commit_checkpoint(step, engine, AnyState(losses=[1.0]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == SHUT_OUT
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def built(ctx):
    return ctx.build_engine(toy_model(), OptimizerConfig(eps=1e-6), EngineConfig())


def run_killed(folder, draw, longest_s):
    """Save in a process that is killed at a random moment or before a random operation."""
    after_s, operation = draw.uniform(0, longest_s), draw.randrange(OPERATIONS)
    by_time = draw.random() < 0.5
    child = os.fork()
    if child == 0:
        left = iter(range(operation, -1, -1))

        def hook(_name, _path):
            if not by_time and next(left, 0) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with fault_hook(hook):
                saving(folder)
        finally:
            os._exit(0)
    if by_time:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_two_hundred_killed_saves_leave_nothing_unreadable(tmp_path):
    torch.set_num_threads(1)
    saving(tmp_path / "first")  # loads what is loaded at the first use
    began = time.monotonic()
    expected, weights = saving(tmp_path / "quiet")
    longest_s = time.monotonic() - began  # a busy machine is slower
    draw = random.Random(SEED)
    print(f"seed {SEED}, {KILLS} kills")
    resumed, rests = [], 0
    for number in range(KILLS):
        folder = tmp_path / str(number % 20)  # most begin where an earlier one was killed
        if number % 60 < 20:
            shutil.rmtree(folder, ignore_errors=True)  # from the beginning
        run_killed(folder, draw, longest_s)
        rests += len(list(folder.glob("checkpoints/*.tmp-*")))
        ctx = Worker.alone(folder)
        newest = max([p.name for p in folder.glob("checkpoints/step-????????")], default=None)
        found = ctx.latest_checkpoint()
        if newest is not None:
            assert found is not None
            assert found.path.name == newest, "a committed checkpoint was damaged"
            built(ctx).load(found.path)
            assert found.read(AnyState).losses == expected[: found.step]
        resumed.append(found.step if found else 0)
        assert not list(folder.glob("checkpoints/*.tmp-*"))
    print(f"newest steps found: {json.dumps(resumed)}; {rests} unfinished ones swept")
    assert len(set(resumed)) > 4  # kills hit many moments
    assert rests > KILLS // 20
    losses, ended = saving(tmp_path / "0")
    assert losses == expected
    assert all(torch.equal(ended[name], value) for name, value in weights.items())
