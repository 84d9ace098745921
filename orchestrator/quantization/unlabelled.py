"""Texts without labels, split for goals that need none.

No row trains anything, so that calibration takes as many rows as it asks for, at most a third, and
validation and test share the others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.rows.splitting import rank
from orchestrator.data.sources.opening import load_task, open_documents
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.inference.inputs import rows_of_texts

FEWEST_TEXTS: Final = 24
"""Fewer different texts give no split that says anything."""


def load_texts(spec: DatasetSpec, calibration_rows: int, cache: Path | None = None) -> TaskData:
    """Read texts and split them by a hash of each, so that the same spec gives the same split.

    Args:
        spec: Documents, one per row: lines of a text file, or the texts of a table.
        calibration_rows: Rows to calibrate on.
        cache: Folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: The source is missing, or has too few different texts.
    """
    texts = list(dict.fromkeys(text for text in _texts(spec, cache) if text.strip()))
    texts.sort(key=lambda text: rank(spec.seed, text))
    if spec.max_rows is not None:
        texts = texts[: spec.max_rows]
    if len(texts) < FEWEST_TEXTS:
        raise InputError(
            f"data: {spec.source} has {len(texts)} different texts; at least {FEWEST_TEXTS} are "
            "needed to calibrate, to choose and to confirm. Give more texts"
        )
    first = min(calibration_rows, len(texts) // 3)
    middle = first + (len(texts) - first) // 2
    parts = (texts[:first], texts[first:middle], texts[middle:])
    train, validation, test = (rows_of_texts(part) for part in parts)
    return TaskData(spec.source, (), train, validation, test)


def _texts(spec: DatasetSpec, cache: Path | None) -> Sequence[str]:
    if spec.labelled:
        task = load_task(spec, cache)
        splits: list[Rows] = [task.train, task.validation, task.test]
        return [text for rows in splits for text in rows.texts]
    return list(open_documents(spec, cache))
