"""``orchestrator predict`` on Ray Data: killed in the middle, it answers every row exactly once."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.dataset as ds
import pytest

import orchestrator
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_tiny
from tests.support.ray import ROOT

ROWS = 3000
PIECE = 50
DEADLINE_S = 240


@pytest.fixture
def place(tmp_path):
    commit_tiny(Zoo(tmp_path / "zoo"))
    texts = [f"{SENTENCES[i % len(SENTENCES)]} {i}" for i in range(ROWS)]
    frame = pd.DataFrame({"id": range(ROWS), "text": texts})
    frame.loc[7, "text"] = " "
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=700)
    return tmp_path


def start(place, *more):
    command = ["package=tiny", "input=rows.parquet", "output=out", f"piece_rows={PIECE}", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "predict.py"), *command],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def parts(place):
    return sorted((place / "out").glob("part-*.parquet"))


@pytest.mark.slow
def test_a_killed_job_continues_and_answers_every_row_once(place):
    job = start(place)
    deadline = time.monotonic() + DEADLINE_S
    while len(parts(place)) < 3 and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    before = {path: path.stat().st_mtime_ns for path in parts(place)}
    assert 0 < len(before) < ROWS // PIECE
    shown, errors = start(place).communicate(timeout=DEADLINE_S)
    result = json.loads(shown.strip().splitlines()[-1])
    assert result["status"] == "done", errors
    assert result["metrics"]["rows"] == ROWS - 1
    assert result["metrics"]["rejected"] == 1
    finished = [path for path in before if path.stat().st_mtime_ns == before[path]]
    assert len(finished) >= len(before) - 1  # one may have been without its record
    found = ds.dataset(place / "out", format="parquet").to_table().to_pandas()
    expected = [number for number in range(ROWS) if number != 7]
    assert list(found.id) == expected
    package = orchestrator.load("tiny", zoo=place / "zoo")
    answers = package.predict(list(found.text))
    assert list(found.answer_label) == [answer.label for answer in answers]
    again, _ = start(place).communicate(timeout=DEADLINE_S)
    assert json.loads(again.strip().splitlines()[-1]) == result
