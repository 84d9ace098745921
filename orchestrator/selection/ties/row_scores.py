"""Per-row scores of every rung: ``correct/<trial>-<rung>.npy`` in the run folder.

One number per VALIDATION row, larger is better, in the order of the rows: a bool where the metric
counts right rows, else a float64, the quality of the row by the metric. A trial writes the file
before it commits the epoch; a repeated epoch writes the same bytes again.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.errors import IntegrityError
from orchestrator.storage import atomic_write_bytes

if TYPE_CHECKING:
    from orchestrator.tasks.metrics import Metric

FOLDER = "correct"
"""Folder of the files in the run folder."""


def row_scores(metric: "Metric", statistics: FloatArray) -> AnyArray:
    """Return the score of each row by a metric: bool ``[N]`` or float64 ``[N]``, larger is better.

    Args:
        metric: The metric that decides, `Task.primary`.
        statistics: Its statistics per row, ``[N, S]``, from `Task.statistics`.
    """
    if metric.right_or_wrong:
        return np.asarray(statistics[:, 0] > 0)
    sign = 1.0 if metric.higher_is_better else -1.0
    return np.asarray(sign * metric.quality(statistics), dtype=np.float64)


def write_row_scores(folder: Path, trial: str, rung: int, scores: AnyArray) -> Path:
    """Write the scores of one trial after one rung; return the file.

    Args:
        folder: `FOLDER` of the run.
        trial: Trial id.
        rung: Rung, 1-based.
        scores: From `row_scores`.

    Raises:
        StageError: The disk refused.
        ValueError: The scores are not one bool or float per row.
    """
    if scores.ndim != 1 or scores.dtype not in (np.bool_, np.float64):
        raise ValueError(f"scores of shape {scores.shape} and type {scores.dtype}: not one per row")
    buffer = io.BytesIO()
    np.save(buffer, scores, allow_pickle=False)
    path = _file(folder, trial, rung)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def read_row_scores(folder: Path, trial: str, rung: int) -> AnyArray | None:
    """Read what `write_row_scores` wrote; None without a file (a run of an earlier release).

    Raises:
        IntegrityError: The file is damaged.
    """
    path = _file(folder, trial, rung)
    if not path.exists():
        return None
    try:
        found: AnyArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(
            f"{path}: not readable as scores per row ({error}). Delete it: its trial is then not "
            "compared with the winner."
        ) from error
    return found


def _file(folder: Path, trial: str, rung: int) -> Path:
    return folder / f"{quote(trial, safe='')}-{rung}.npy"
