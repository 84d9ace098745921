"""A selection whose driver is killed as soon as a first result is on disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator.config import dump_yaml

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 300


def killed_at_the_first_row(job, place):
    """Run a select job as a process, SIGKILL it when its journal exists; return its bytes."""
    file, journal = place / f"{job.run.name}.yaml", place / "runs" / job.run.name / "trials.jsonl"
    file.write_text(dump_yaml(job))
    code = (
        "import sys; from orchestrator.cli import job_main; "
        f"sys.exit(job_main('select', ['--config', {str(file)!r}]))"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not journal.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return journal.read_bytes()
