"""Time from a command to its first step: our job, and a Ray Train job that does nothing."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RAY_ALONE = """
import sys, time
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
def loop(config):
    import torch, time
    from pathlib import Path
    Path(config["mark"]).write_text(str(time.time()))
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
TorchTrainer(loop, train_loop_config={"mark": sys.argv[1]}, torch_config=TorchConfig("gloo"),
    scaling_config=ScalingConfig(num_workers=1),
    run_config=RunConfig(storage_path=sys.argv[2])).fit()
"""
OURS_FROM_SHELL = """
import sys, time
from pathlib import Path
from orchestrator.cluster.observe.watch import Watcher
from orchestrator.training.events import Measurement
plain = Watcher.observe
def observe(self, event):
    mark = Path(sys.argv[1])
    if isinstance(event, Measurement) and not mark.exists():
        mark.write_text(str(time.time()))
    plain(self, event)
Watcher.observe = observe
from orchestrator.cli import job_main
sys.exit(job_main("pretrain", sys.argv[2:]))
"""


def startup(given: dict[str, Any], times: int) -> tuple[list[float], list[float]]:
    """Return seconds from a command to its first step: ours, and to a worker's first line: Ray."""
    folder = Path(given["folder"])
    seconds: tuple[list[float], list[float]] = ([], [])
    model = f"model={json.dumps(given['model'])}"
    for index in range(times):
        mine = [f"run.name=start-{index}", f"run.dir={folder}", f"run.zoo={folder}/zoo", model]
        settings = [*mine, "train.max_steps=1", "train.log_every_steps=1"]
        ours = ["--config", str(folder / "job.yaml"), *settings]
        for side, (code, extra) in enumerate(
            ((OURS_FROM_SHELL, ours), (RAY_ALONE, [str(folder / "ray")]))
        ):
            mark = folder / f"mark-{side}-{index}"
            began = time.time()
            command = [sys.executable, "-c", code, str(mark), *extra]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            seconds[side].append(float(mark.read_text()) - began)
    return seconds
