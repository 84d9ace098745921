"""Rows to evaluate on: labels are numbered as the package numbers them, by name."""

import logging
from collections import Counter
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from orchestrator.config import did_you_mean
from orchestrator.data.rows.labelled import (
    Table,
    Tables,
    left_out,
    read_again,
    require_readable,
)
from orchestrator.data.rows.labels import Labels
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.finetuning.evaluating.config import Split
from orchestrator.tasks.base import AnyTask

logger = logging.getLogger(__name__)

MIN_SHOWN: Final = 60
"""Characters of an unknown label in a message."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Rows to answer.

    Attributes:
        rows: Labels in the numbers of the package.
        split: Which rows: train, validation, test or all.
        rejected: Number of rows left out, by reason.
    """

    rows: Rows
    split: Split
    rejected: dict[str, int]


def read_asked(
    spec: DatasetSpec,
    task: AnyTask,
    split: Split | None = None,
    *,
    learned_from: str | None = None,
    cache: Path | None = None,
) -> Asked:
    """Read the rows to evaluate a task on.

    Args:
        spec: Where they are.
        task: The package's task.
        split: Which rows; None: the test rows where there are some, else all.
        learned_from: Source that the package learned from, whose test rows it has not seen.
        cache: Folder for prepared data.

    Raises:
        InputError: Nothing to read, no column for text or label, or labels that the package does
            not know.
    """
    form = task.form()
    tables = None
    if spec.scheme in ("files", "hf") and split in (None, "all"):
        tables = _read_tables(spec, task)
        known = "test" in tables.splits or spec.source == learned_from
        if split == "all" or not known:
            return _all_rows(spec, tables, task)
    data = load_task(spec, cache, form)
    chosen = split or "test"
    rows = _together(data) if chosen == "all" else data.split(chosen)
    return Asked(_renumbered(spec, rows, data.label_names, task), chosen, data.rejected)


def rows_digest(rows: Rows) -> str:
    """Return the SHA-256 over the content of rows, in their order."""
    digest = sha256()
    for field in fields(rows):
        value = getattr(rows, field.name)
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"{field.name} {value.dtype} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        elif value is not None:
            plain = [np.asarray(v).tolist() for v in value] if field.name == "labels" else value
            digest.update(f"{field.name} {plain!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _read_tables(spec: DatasetSpec, task: AnyTask) -> Tables:
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import read_tables as read_hub

        return read_hub(spec, task.form())
    from orchestrator.data.sources.files import read_tables

    return read_tables(spec, task.form())


def _all_rows(spec: DatasetSpec, tables: Tables, task: AnyTask) -> Asked:
    """Return every row of a source, numbered."""
    if not any(table.records for table in tables.splits.values()):
        raise InputError(f"{spec.source}: no rows. {left_out(tables.rejected)}")
    require_readable(spec, tables)
    form = task.form()
    for note in read_again(tables, form, task.labels):
        logger.warning("%s: %s", spec.source, note)
    joint = Table([record for table in tables.splits.values() for record in table.records])
    if task.labels:
        _require_known(spec, joint, task, tables.label_names)
        words = list(task.labels)
        if tables.label_names is not None:  # labels are written as numbers
            numbers = {name: str(number) for number, name in enumerate(tables.label_names)}
            words = [numbers.get(name, name) for name in task.labels]
    else:
        words, _ = form.names(spec, joint.labels, None)
    labels = form.number(spec, "the data", joint.labels, words)
    rows = _capped(joint.rows(labels), spec)
    _require_width(spec, labels, task)
    return Asked(rows, "all", dict(tables.rejected))


def _capped(rows: Rows, spec: DatasetSpec) -> Rows:
    """Return ``max_rows`` rows, chosen by the seed, in their order."""
    if spec.max_rows is None or len(rows) <= spec.max_rows:
        return rows
    chosen = np.random.default_rng(spec.seed).permutation(len(rows))[: spec.max_rows]
    return rows.take(np.sort(chosen))


def _require_known(
    spec: DatasetSpec, table: Table, task: AnyTask, given: tuple[str, ...] | None
) -> None:
    """Refuse labels that the package does not know."""
    known = set(task.labels)
    counts = Counter(chain.from_iterable(table.labels))
    if given is not None:
        counts = Counter(
            {
                given[int(word)] if word.isdecimal() and int(word) < len(given) else word: count
                for word, count in counts.items()
            }
        )
    unknown = [word for word, _ in counts.most_common() if word not in known]
    if not unknown:
        return
    if set(table.texts) <= known:
        raise InputError(
            f"{spec.source}: the column of the text holds labels of the package, the column of the "
            "label does not. Swap data.text_column and data.label_column."
        )
    raise InputError(unknown_label(spec, unknown[0], task))


def unknown_label(spec: DatasetSpec, word: str, task: AnyTask) -> str:
    """Return the message about a label that a package does not know."""
    return (
        f"{spec.source}: label {word[:MIN_SHOWN]!r} is not a label of task {task.head!r}. "
        f"{did_you_mean(word, task.labels, 'Its labels')} Check data.label_column."
    )


def _require_width(spec: DatasetSpec, labels: Labels, task: AnyTask) -> None:
    """Refuse rows with more or fewer numbers than the head gives."""
    wanted = getattr(task.config, "num_values", None)
    if wanted is not None and labels.ndim == 2 and labels.shape[1] != wanted:
        raise InputError(
            f"{spec.source}: each row has {labels.shape[1]} numbers, task {task.head!r} answers "
            f"with {wanted}. Check data.label_column."
        )


def _together(data: TaskData) -> Rows:
    """Return train, validation and test rows as one."""
    parts = [data.train, data.validation, data.test]
    joint: dict[str, Any] = {"texts": [], "pairs": None}
    for field in fields(Rows):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None:
            continue
        arrays = isinstance(values[0], np.ndarray)
        joint[field.name] = np.concatenate(values) if arrays else list(chain.from_iterable(values))
    return Rows(**joint)


def _renumbered(spec: DatasetSpec, rows: Rows, names: tuple[str, ...], task: AnyTask) -> Rows:
    """Return rows whose labels have the numbers of the package."""
    if not task.labels or tuple(names) == task.labels:
        _require_width(spec, rows.labels, task)
        return rows
    unknown = [name for name in names if name not in task.labels]
    if unknown:
        raise InputError(unknown_label(spec, unknown[0], task))
    numbers = np.asarray([task.labels.index(name) for name in names], dtype=np.int64)
    if rows.labels.dtype == object:
        labels = task.form().stack([numbers[row] for row in rows.labels])
    elif rows.labels.ndim == 2:
        labels = np.zeros((len(rows), len(task.labels)), dtype=rows.labels.dtype)
        labels[:, numbers] = rows.labels
    else:
        labels = numbers[rows.labels]
    return replace(rows, labels=labels)
