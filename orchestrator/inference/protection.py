"""Importance of the weights of a package for the tasks it has learned, kept in ``state/``.

A stage that trains labelled heads measures it once, when the files of its package are written. A
continual stream that starts from the package weighs changes by it, without the tasks' data. The
weights that it belongs to (the anchors) are the package's own, so no copy of them is kept.

    F_i = sum over heads of 1/N * sum_n (d log p(y_n | x_n) / d w_i)^2

with true labels, in evaluation mode, N training rows of each head (Kirkpatrick et al. 2017). It is
measured on the CPU: a few seconds for a small model, about three passes over N rows in any case.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from orchestrator.data.processors.example_processor import RowProcessor, open_processor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.rows.storage import read_rows
from orchestrator.errors import InputError
from orchestrator.modeling.importance import Importance, squared_gradients
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model
from orchestrator.tasks.base import AnyTask
from orchestrator.tasks.suite import Learned
from orchestrator.zoo.suite import EXEMPLARS_FOLDER

STATE_FILE = "state/continual.safetensors"
"""Tensors that protect learned tasks, named ``<what>.<parameter>``."""

FISHER = "fisher"
"""Importance as it was measured: mean squared gradient of one row."""

ROWS = 128
"""Training rows of each head that measure it, as many as a stream's ``find.fisher_samples``."""

SEED = 13
"""Seed of their choice."""

logger = logging.getLogger(__name__)


def protect(
    folder: Path,
    tasks: Mapping[str, AnyTask],
    learned: Mapping[str, Learned],
    max_length: int | None,
) -> list[str]:
    """Measure the importance of a draft's weights and write it into the draft.

    Args:
        folder: All files of the package are written, exemplars of kept heads too.
        tasks: Its tasks by head.
        learned: Data of the job by head.
        max_length: Limit in tokens.

    Returns:
        Heads without rows to measure with, or whose loss moves no weight: nothing protects them.
    """
    model, processor = load_model(folder).eval(), open_processor(folder)
    total: Importance = {}
    rows_read = 0
    unprotected = []
    for head, task in tasks.items():
        rows = _rows(folder, head, learned)
        found, count = (
            ({}, 0) if rows is None else _measure(model, processor, task, rows, max_length)
        )
        if not any(bool(value.any()) for value in found.values()):
            unprotected.append(head)
            continue
        rows_read += count
        for name, value in found.items():
            total[name] = total.get(name, 0) + value / count
    if total:
        store_tensors(folder, {f"{FISHER}.{name}": value for name, value in total.items()})
        logger.info("importance of the weights measured on %d training rows", rows_read)
    for head in unprotected:
        logger.warning("head %s: nothing measures which weights it needs", head)
    return unprotected


def store_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of a draft, named ``<what>.<parameter>``."""
    path = folder / STATE_FILE
    path.parent.mkdir(exist_ok=True)
    # safetensors' save_file makes files that their owner alone reads; others share the zoo.
    path.write_bytes(save(dict(tensors)))


def stored_tensors(folder: Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of one kind that a package keeps, by parameter; {} without any."""
    path = folder / STATE_FILE
    if not path.is_file():
        return {}
    prefix = f"{what}."
    with safe_open(path, "pt") as file:
        return {
            name.removeprefix(prefix): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118  (no mapping)
            if name.startswith(prefix)
        }


def _rows(folder: Path, head: str, learned: Mapping[str, Learned]) -> Rows | None:
    """Return training rows of a head: the job's, or those that the draft keeps."""
    if head in learned:
        return learned[head].data.train
    path = folder / EXEMPLARS_FOLDER / f"{head}.parquet"
    return read_rows(path) if path.is_file() else None


def _measure(
    model: Model,
    processor: RowProcessor | None,
    task: AnyTask,
    rows: Rows,
    max_length: int | None,
) -> tuple[Importance, int]:
    """Return the sum over some rows, and their number; none where the kind has no samples."""
    try:
        samples = task.samples(rows, processor, max_length)
    except InputError as error:
        logger.warning("head %s: %s", task.head, error)
        return {}, 0
    chosen = np.random.default_rng(SEED).permutation(len(samples))[:ROWS]
    batches = (samples.collate(np.asarray([row], np.int64), 0) for row in chosen)
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        return squared_gradients(model, weights, batches)
