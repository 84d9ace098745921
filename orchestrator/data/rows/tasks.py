"""``load_task``: any labelled data set as one :class:`TaskData`, split and checked."""

from pathlib import Path

import numpy as np

from orchestrator.data.rows.labelled import assemble, split_rows
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError


def load_task(spec: DatasetSpec, cache: Path | None = None, form: LabelForm = CLASSES) -> TaskData:
    """Read a labelled data set.

    Args:
        spec: What to read. A source with its own splits keeps them; otherwise rows are split class
            by class by a hash of their text, so that the same spec always gives the same split.
        cache: Folder for parsed docstrings; None takes the user's cache.
        form: What the label of a row is; the builtins have classes.

    Returns:
        The task. No text is in two splits.

    Raises:
        InputError: The source is missing, empty, has no labels, or a class cannot be split.
    """
    if spec.labelled and form is not CLASSES:
        raise InputError(f"{spec.source!r} has classes, no {form.what[1]}. Use files: or hf:.")
    if spec.pydoc_task is not None:
        return _pydoc_task(spec, spec.pydoc_task, cache)
    if spec.source == "builtin:digits":
        return _digits_task(spec)
    if spec.scheme == "files":
        from orchestrator.data.sources.files import read_tables

        return assemble(spec, read_tables(spec, form), form)
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import read_tables as read_hub

        return assemble(spec, read_hub(spec, form), form)
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
