"""Rows 9 to 12 of the fault table for real checkpoints: full, read-only, flipped and cut files."""

import ctypes
import json
import os
import random
import re
import resource
import shutil
import subprocess
import threading
import time
import traceback
from pathlib import Path

import pytest
import torch

from orchestrator.cli import main
from orchestrator.cluster.checkpoints import saving
from orchestrator.cluster.context import Worker
from orchestrator.cluster.observe.mailbox import SilentLine
from orchestrator.errors import IntegrityError, StageError
from orchestrator.storage import verify_folder
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.events import CheckpointDamaged, NoSpace
from tests.support.state import AnyState
from tests.support.toy import toy_model, toy_window

PRESET = Path(__file__).resolve().parents[4] / "jobs" / "configs" / "pretrain_bert_nano.yaml"
FLIPS = 100  # random bits a file
CLONE_NEWNS = 0x00020000
TOLD_WITHIN_S = 5.0


class Notes(SilentLine):
    """Keeps what a driver would be told."""

    def __init__(self):
        self.events = []

    def post(self, event):
        self.events.append(event)


def saved(folder, steps=2):
    """Two checkpoints of a real engine; returns the worker and its notes."""
    torch.set_num_threads(1)
    notes = Notes()
    ctx = Worker(0, 1, folder, line=notes)
    engine = ctx.build_engine(toy_model(), OptimizerConfig(), EngineConfig())
    for step in range(steps):
        engine.forward_backward(toy_window(step, 0, 1))
        engine.set_lr(1e-3)
        engine.step()
        ctx.commit_checkpoint(step + 1, engine, AnyState(losses=[float(step)]))
    return ctx, notes


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"))


def newest(ctx):
    return ctx.run_dir / "checkpoints" / "step-00000002"


FILES = ["training.safetensors", "training.json", "extra.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found_and_the_one_before_is_used(checkpoints, name):
    ctx, notes = checkpoints
    path = newest(ctx) / name
    data = path.read_bytes()
    bits = random.Random(1).sample(range(len(data) * 8), FLIPS)
    if name == "manifest.json":  # what no hash of a file covers: every bit of it
        head = data.index(b'"schema_version"') * 8, data.index(b'"files"') * 8
        bits += range(*head)
    try:
        for bit in bits:
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            notes.events.clear()
            assert ctx.latest_checkpoint().step == 1, f"bit {bit} of {name}"
            (event,) = notes.events
            assert isinstance(event, CheckpointDamaged)
            assert "step-00000002" in event.message
    finally:
        path.write_bytes(data)
    assert ctx.latest_checkpoint().step == 2


def cuts(data):
    header = 8 + int.from_bytes(data[:8], "little")
    return {1, 8, header, len(data) // 2, len(data) - 1}


def test_a_truncated_state_is_named_and_the_one_before_is_used(checkpoints):
    ctx, notes = checkpoints
    path = newest(ctx) / "training.safetensors"
    data = path.read_bytes()
    try:
        for length in sorted(cuts(data)):
            path.write_bytes(data[:length])
            with pytest.raises(IntegrityError, match=r"training\.safetensors"):
                verify_folder(newest(ctx))
            notes.events.clear()
            assert ctx.latest_checkpoint().step == 1
            assert "training.safetensors" in notes.events[0].message
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("change", [{"schema_version": 1}, {"step": 3}, {"world": 4}, {"new": 1}])
def test_a_manifest_that_was_edited_describes_nothing(checkpoints, tmp_path, change):
    shutil.copytree(checkpoints[0].run_dir, tmp_path, dirs_exist_ok=True)
    ctx = Worker.alone(tmp_path)
    path = newest(ctx) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert ctx.latest_checkpoint().step == 1


def elsewhere(action, folder):
    """Run ``action`` in a process with mounts of its own; returns the lines that it told."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        tell = os.fdopen(writer, "w")
        try:
            if ctypes.CDLL(None).unshare(CLONE_NEWNS) or mount("--make-rprivate", "/"):
                print("REFUSED", file=tell)
            else:
                action(folder, lambda text: print(text, file=tell))
            code = 0
        except BaseException:
            traceback.print_exc(file=tell)
            code = 1
        tell.flush()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told == "REFUSED\n":
        pytest.skip("needs the privilege to mount a small tmpfs")
    assert code == 0, told
    return told.splitlines()


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


def prepared(root, *options):
    """A small file system with two checkpoints, and an engine that loaded the newest."""
    assert mount("-t", "tmpfs", *options, "none", str(root)) == 0
    ctx, notes = saved(root)
    engine = ctx.build_engine(toy_model(), OptimizerConfig(), EngineConfig())
    engine.load(ctx.latest_checkpoint().path)
    return ctx, notes, engine


def refused(ctx, engine):
    """Try to save; the message of the refusal and its seconds. The old ones must be intact."""
    began = time.monotonic()
    with pytest.raises(StageError) as caught:
        ctx.commit_checkpoint(3, engine, AnyState())
    seconds = time.monotonic() - began
    assert ctx.latest_checkpoint().step == 2
    assert not list(ctx.run_dir.glob("checkpoints/*.tmp-*")), "a rest stays"
    return str(caught.value), seconds


def save(ctx, engine):
    ctx.commit_checkpoint(3, engine, AnyState())
    assert ctx.latest_checkpoint().step == 3


def full(root, tell):
    ctx, notes, engine = prepared(root, "-o", "size=256k")
    filler = root / "filler"
    status = os.statvfs(root)
    filler.write_bytes(b"x" * (status.f_bavail * status.f_frsize - 8192))
    saving.RETRY_AFTER_S = (0.1,)
    tell(refused(ctx, engine)[0])  # before anything is written
    check, saving.require_space = saving.require_space, lambda path, needed: None
    tell(refused(ctx, engine)[0])  # while it is written
    assert [type(e) for e in notes.events] == [NoSpace] * 2, notes.events
    saving.require_space, saving.RETRY_AFTER_S = check, (0.3,) * 30
    threading.Timer(0.2, filler.unlink).start()
    save(ctx, engine)


def test_a_full_disk_keeps_the_old_ones_and_waits_for_space(tmp_path):
    told = elsewhere(full, tmp_path)
    assert len(told) == 2
    for line in told:
        assert "the checkpoint of step 3 could not be written" in line
        assert re.search(r"No space left on device: [\d,]+ bytes are needed, [\d,]+ are free", line)
        assert "Earlier checkpoints are intact" in line


def limited(root, tell):
    ctx, _, engine = prepared(root)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    tell(refused(ctx, engine)[0])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    save(ctx, engine)


def test_a_limit_on_file_sizes_keeps_the_old_ones(tmp_path):
    (told,) = elsewhere(limited, tmp_path)
    assert re.search(r"File too large: [\d,]+ bytes are needed", told)


def read_only(root, tell):
    ctx, _, engine = prepared(root)
    assert mount("-o", "remount,ro", str(root)) == 0
    message, seconds = refused(ctx, engine)
    assert seconds < TOLD_WITHIN_S
    tell(message)
    began = time.monotonic()
    tell(main(["pretrain", f"--config={PRESET}", f"run.dir={root}/runs"]))
    assert time.monotonic() - began < TOLD_WITHIN_S


def test_a_place_that_became_read_only_is_told_at_once(tmp_path, capfd):
    told, code = elsewhere(read_only, tmp_path)
    assert "Read-only file system" in told
    assert "Choose a writable place" in told
    assert int(code) == StageError.exit_code == 1
    assert "Read-only file system" in capfd.readouterr().err
