"""``orchestrator estimate``: memory, traffic and time of a job on clusters that are not here."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.pretraining.estimate_clusters import Job, Row

USUAL_CLUSTERS = "8,64,512"
USUAL_MFU = 0.4
BOUND = "! = more than the network carries: the step takes longer than this table says."
COLUMNS = (
    "workers", "stage", "memory", "fits", "micro-batch", "batch", "step", "all steps", "sent/step",
    "needed",
)  # fmt: skip


def register(subparsers: Any) -> None:
    """Add the verb ``estimate``."""
    parser = subparsers.add_parser(
        "estimate", help="a pre-training job on clusters that are not here, on paper"
    )
    parser.add_argument("-c", "--config", required=True, help="YAML file of a pretrain job")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting")
    parser.add_argument(
        "--workers", default=USUAL_CLUSTERS, help=f"cluster sizes (default: {USUAL_CLUSTERS})"
    )
    parser.add_argument("--accelerator", default="h100", help="one for each worker, by name")
    parser.add_argument(
        "--mfu",
        type=float,
        default=USUAL_MFU,
        help=f"share of the peak rate that is reached (default: {USUAL_MFU})",
    )
    parser.add_argument(
        "--network", type=float, help="Gbit/s between nodes for each device (default: its maker's)"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Write the table and its formulas.

    Raises:
        ConfigError: The job is not valid.
        InputError: An unknown accelerator, a cluster size that is none, an MFU outside (0, 1],
            a network without speed.
    """
    from orchestrator.config import load_config
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.pretraining.estimate_clusters import ACCELERATORS, GBIT, Job
    from orchestrator.pretraining.plan import expected_vocabulary

    clusters = _clusters(options.workers)
    if options.accelerator not in ACCELERATORS:
        raise InputError(
            f"--accelerator {options.accelerator!r} is not known. Use {', '.join(ACCELERATORS)}"
        )
    if not 0 < options.mfu <= 1:
        raise InputError(f"--mfu {options.mfu} is not in (0, 1]. 0.4 is usual")
    if options.network is not None and not 0 < options.network < math.inf:
        raise InputError(f"--network {options.network} is not above 0. 400 Gbit/s is usual")
    config = load_config(PretrainConfig, options.config, options.overrides)
    model = config.model_for(*expected_vocabulary(config))
    device = ACCELERATORS[options.accelerator]
    if options.network is not None:
        device = replace(device, network=options.network * GBIT)
    job = Job.of(config, model, device, options.mfu)
    sys.stdout.write(describe(job, options.accelerator, clusters) + "\n")
    return 0


def _clusters(text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise InputError(f"--workers {text!r} is not a list of sizes. Write for example 8,64,512")
    return [int(size) for size in sizes]


def describe(job: "Job", accelerator: str, clusters: Sequence[int]) -> str:
    """Return the table, the formulas and what they assume."""
    lines, rows = [_job_line(job), ""], list(job.rows(clusters))
    table = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    for cells in table:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join(padded))
    slow = [] if all(row.carried for row in rows) else [BOUND]
    return "\n".join([*lines, "", *slow, *_assumptions(job, accelerator)])


def _job_line(job: "Job") -> str:
    sizes, train = job.sizes, job.config.train
    frozen = f" ({sizes.trained:,} trained)" if sizes.trained < sizes.total else ""
    return (
        f"{job.config.run.name}: {sizes.total:,} parameters{frozen}, {train.max_steps:,} steps of "
        f"{train.global_batch_size} samples of {job.config.data.block_size} positions, "
        f"{job.config.engine.precision}"
    )


def _cells(row: "Row") -> tuple[str, ...]:
    return (
        str(row.workers),
        str(row.stage),
        f"{row.memory.on_accelerator / 1e9:.2f} GB",
        "yes" if row.fits else "no",
        f"{row.micro_batch} × {row.micro_batches}" if row.fits else "-",
        str(row.global_batch),
        _seconds(row.seconds),
        f"{row.days:.2f} days" if row.days >= 0.1 else _seconds(row.days * 86400),
        f"{row.sent / 1e9:.2f} GB",
        f"{row.needed / 1e9:.1f} GB/s" + (" " if row.carried else "!"),
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1e3:.2f} ms"


def _assumptions(job: "Job", accelerator: str) -> list[str]:
    from orchestrator.pretraining.estimate_clusters import GBIT, NODE, RESERVED

    device = job.accelerator
    return [
        f"{accelerator}: {device.memory / 1e9:.0f} GB; {RESERVED / 1e9:g} GB of it are reserved "
        f"for driver, libraries and fragments; {job.peak / 1e12:g} TFLOP/s in this format.",
        "memory = weights + masters + optimizer + buffers + max(backward pass, optimizer step), "
        "formulas in orchestrator/pretraining/estimate_memory.py; it holds for the largest "
        "micro-batch that fits and divides a worker's share ('micro-batch': size × number).",
        "  on paper (Rajbhandari et al. 2020, w + g + k bytes per parameter): stage 0 (w+g+k)N, "
        "1 (w+g+k/workers)N, 2 (w+(g+k)/workers)N, 3 (w+g+k)N/workers.",
        "batch = train.global_batch_size, or the next multiple of the workers.",
        f"step = operations / (workers × peak × MFU), MFU {job.mfu:g}, "
        f"{job.flops_a_sample:.3g} operations a sample: 6 for each weight and position, and "
        "12 × layers × width × length for attention; recomputation, waiting for data and for the "
        "network are part of the MFU.",
        "sent/step = values × bytes, N trained parameters, a micro-batches a worker: stages 0 and "
        "1 2N, stage 2 (1+a)N, stage 3 3aN (with a = 1 the paper's 2N, 2N, 2N, 3N); 4 bytes in "
        "fp32 and at stage 0, else 2.",
        f"needed = sent/step / step, of one device; up to {NODE} workers share a node and "
        f"carry {device.link / 1e9:g} GB/s each, more send over a network of "
        f"{device.network / GBIT:g} Gbit/s = {device.network / 1e9:g} GB/s each (--network).",
        "memory covers the start, too: each worker makes its own part of each parameter, or reads "
        "it from the checkpoint or package that it begins with.",
    ]
