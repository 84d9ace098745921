"""Making a corpus when it is large and when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.corpus_memory import in_a_process, measure
from orchestrator.config import load_config
from orchestrator.data.corpora.corpus import open_corpus, prepare_corpus
from orchestrator.pretraining.config import CorpusJobConfig
from tests.support.processes import command_of

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "corpus_pydoc.yaml"
MOST_MB = 100
MOST_READING_MB = 30
DEADLINE_S = 900


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    found = measure(tmp_path, 60)
    assert found["text_mb"] >= 60
    assert found["tokens"] > 10_000_000
    assert found["rise_mb"] < MOST_MB
    read = in_a_process("--read", str(tmp_path / "corpora"), "pairs")
    assert read["samples"] > 200_000
    assert read["peak_mb"] < MOST_READING_MB


def command(path):
    return [
        sys.executable,
        "jobs/corpus.py",
        f"--config={PRESET}",
        f"run.dir={path}",
        "data.shard_bytes=20000",
    ]


def wait_for(condition, what):
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def family(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_job_goes_on_and_writes_no_finished_shard_again(tmp_path):
    """The driver gets SIGKILL when it has made some shards; the same command does the rest."""
    job = subprocess.Popen(command(tmp_path), cwd=ROOT, start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("corpora/*/shard-*.json"))) >= 5, "no shards")
    left = family(job)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    for process in psutil.wait_procs(left, timeout=20)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    (folder,) = (tmp_path / "corpora").glob("corpus-*")
    assert not (folder / "manifest.json").exists()
    before = {path.name: path.stat() for path in folder.glob("shard-*.json")}
    done = subprocess.run(
        command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])["metrics"]
    assert figures["shards_made"] == figures["shards"] - len(before) > 0
    for name, status in before.items():
        assert (folder / name).stat().st_mtime_ns == status.st_mtime_ns
    config = load_config(CorpusJobConfig, PRESET, ["data.shard_bytes=20000"])
    alone = prepare_corpus(config.data, tmp_path / "alone")
    assert open_corpus(folder).manifest == alone.manifest


def stopped_at_work(job):
    """Stop a worker process in the middle of its task and return it; None: there was none.

    A task takes moments: a process that was seen to work may have ended its task since.
    """
    for process in family(job):
        with suppress(psutil.NoSuchProcess):
            if not works(process):
                continue
            process.suspend()
            wait_for(lambda each=process: each.status() == psutil.STATUS_STOPPED, "not stopped")
            if works(process):
                return process
            process.resume()
    return None


def works(process):
    return "Map(_work)" in command_of(process)


def test_a_killed_worker_is_replaced(tmp_path):
    """A process that works on shards gets SIGKILL: Ray Data starts its task again."""
    job = subprocess.Popen(
        command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: list(tmp_path.glob("corpora/*/shard-*.json")), "no shards")

    wait_for(lambda: stopped_at_work(job), "no worker").kill()
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0
    figures = json.loads(output.splitlines()[-1])["metrics"]
    assert figures["documents"] == 4000
    assert open_corpus(Path(figures["corpus"])).shards == figures["shards"]
