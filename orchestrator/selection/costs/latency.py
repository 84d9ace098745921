"""Latency of one candidate on the data it is selected for; runs on a worker, imports no Ray.

Measured on the CPU of a worker, one row at a time, on the training row of median length. The heads
of the finished package are not measured: they are small beside the encoder.
"""

import os
import platform
import time
from pathlib import Path
from statistics import median

import numpy as np

from orchestrator.selection.costs.results import Latency
from orchestrator.selection.scores.features import (
    CLASSES,
    ProxyPayload,
    read_samples,
    sample_rows,
)
from orchestrator.selection.trials.failures import reason_of, repeats
from orchestrator.selection.trials.loading import package_of, task_of

WARM_UP, CALLS = 3, 20


def try_time(payload: ProxyPayload) -> Latency:
    """Measure one package; an error that a retry would repeat becomes the result."""
    try:
        return time_package(payload)
    except Exception as error:
        if not repeats(error):
            raise
        return Latency(ms=0.0, tokens=0, host="", error=reason_of(error))


def time_package(payload: ProxyPayload) -> Latency:
    """Measure one package."""
    import torch

    from orchestrator.modeling.package import load_model

    begun = time.perf_counter()
    kind = CLASSES if payload.asked is None else payload.asked.kind
    rows = sample_rows(task_of(payload.task, kind).train, payload.rows, payload.seed)
    folder = package_of(payload.zoo, payload.package).path
    model = load_model(folder).eval()
    limit = min(payload.max_length, model.config.max_position_embeddings)
    samples = read_samples(folder, rows, limit, payload.asked)
    lengths = getattr(samples, "lengths", None)
    lengths = np.zeros(len(samples), int) if lengths is None else lengths
    row = np.argsort(lengths, kind="stable")[len(lengths) // 2]
    batch, times = samples.collate(np.array([row]), 0), []
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(WARM_UP + CALLS):
            before = time.perf_counter()
            model.pool(model.encode(batch), batch)
            times.append(time.perf_counter() - before)
    return Latency(
        ms=1000 * median(times[WARM_UP:]),
        tokens=int(lengths[row]),
        host=host_fingerprint(torch.get_num_threads()),
        seconds=time.perf_counter() - started,
        startup_s=started - begun,
    )


def host_fingerprint(threads: int) -> str:
    """Processor, number of CPUs and threads of this host: latencies of others differ."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):  # not Linux, or a processor without a name there
        pass
    return f"{model}, {os.cpu_count()} CPUs, {threads} threads"
