"""``load_task``: any labelled data set as one :class:`TaskData`, split and checked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orchestrator.data.rows import Rows, TaskData
from orchestrator.data.spec import DatasetSpec
from orchestrator.data.splitting import cap_indices, split_indices
from orchestrator.errors import InputError

MIN_CLASSES = 2


def load_task(spec: DatasetSpec, cache: Path | None = None) -> TaskData:
    """Read a labelled data set.

    Args:
        spec: what to read. A source with its own splits keeps them; otherwise rows are split class
            by class by a hash of their text, so that the same spec always gives the same split.
        cache: folder for parsed docstrings; None takes the user's cache.

    Returns:
        The task. No text is in two splits.

    Raises:
        InputError: the source is missing, empty, has no labels, or a class cannot be split.
    """
    if spec.pydoc_task is not None:
        return _pydoc_task(spec, spec.pydoc_task, cache)
    if spec.source == "builtin:digits":
        return _digits_task(spec)
    if spec.scheme == "files":
        from orchestrator.data.sources.files import read_labelled

        return assemble(spec, read_labelled(spec))
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import read_labelled as read_hub

        return assemble(spec, read_hub(spec))
    raise InputError(
        f"{spec.source!r} has no labels. Use builtin:pydoc/<task>, builtin:digits, files: or hf:."
    )


def _pydoc_task(spec: DatasetSpec, task: str, cache: Path | None) -> TaskData:
    from orchestrator.data.sources.pydoc_tasks import task_table

    table = task_table(task, cache)
    names = tuple(sorted(table.label.unique()))
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.asarray([numbers[name] for name in table.label], dtype=np.int64)
    rows = Rows(list(table.text), None, labels)
    return split_rows(spec, f"pydoc-{task}", names, rows, dict(table.attrs["rejected"]))


def _digits_task(spec: DatasetSpec) -> TaskData:
    from orchestrator.data.sources.digits import read_digits

    return split_rows(spec, "digits", tuple("0123456789"), read_digits(), {})


def split_rows(
    spec: DatasetSpec, name: str, names: tuple[str, ...], rows: Rows, rejected: dict[str, int]
) -> TaskData:
    """Cap rows and split them into train, validation and test.

    Raises:
        InputError: there are fewer than two classes, or one cannot be split.
    """
    require_classes(spec, names)
    keys = _keys(rows)
    if spec.max_rows is not None and len(rows) > spec.max_rows:
        kept = cap_indices(rows.labels, keys, spec.max_rows, spec.seed)
        rows, keys = rows.take(kept), [keys[i] for i in kept]
    held_out = (spec.validation_fraction, spec.test_fraction)
    try:
        parts = split_indices(rows.labels, keys, held_out, spec.seed, names)
    except InputError as error:
        raise InputError(f"{spec.source}: {error}") from None
    train, validation, test = (rows.take(part) for part in parts)
    return TaskData(name, names, train, validation, test, rejected)


def require_classes(spec: DatasetSpec, names: Sequence[str]) -> None:
    """Refuse a task that has nothing to tell apart.

    Raises:
        InputError: there are fewer than two classes.
    """
    if len(names) < MIN_CLASSES:
        shown = ", ".join(map(repr, names)) or "none"
        raise InputError(
            f"{spec.source}: {len(names)} class ({shown}); classification needs at least two. "
            "Check label_column."
        )


def _keys(rows: Rows) -> list[str]:
    """Return what identifies each row, for hashing."""
    if rows.images is not None:
        return [image.tobytes().hex() for image in rows.images]
    if rows.pairs is None:
        return rows.texts
    return [f"{a}\x00{b}" for a, b in zip(rows.texts, rows.pairs, strict=True)]
