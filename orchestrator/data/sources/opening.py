"""Opening of any source: the documents of a corpus, examples, or labelled rows as a task.

Documents and examples are listed first; texts and media are read later. Rows are read at once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from orchestrator.data.rows.labelled import assemble, split_rows
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.rows.splitting import rank
from orchestrator.data.sources.contents import TRAIN, VALIDATION, Documents, Entries, Entry, Span
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError


def open_documents(spec: DatasetSpec, cache: Path | None = None) -> Documents:
    """Return the documents of a corpus; reads none of them yet.

    Args:
        spec: What to read.
        cache: Folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: The source is missing or not a corpus.
    """
    if spec.source == "builtin:pydoc":
        return _pydoc(spec, cache)
    if spec.scheme == "files":
        from orchestrator.data.sources.files import file_documents

        return file_documents(spec)
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import hub_documents

        return hub_documents(spec)
    raise InputError(
        f"{spec.source!r} is not a corpus. Use builtin:pydoc, files:<path> or hf:<id>."
    )


def list_entries(spec: DatasetSpec, columns: Sequence[str], cache: Path | None = None) -> Entries:
    """List the examples of a data set.

    Args:
        spec: What to read.
        columns: What each example must have: text, pair, picture, sound.
        cache: Folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: The source is missing, or has no such examples.
    """
    if spec.scheme == "files":
        from orchestrator.data.sources.example_files import file_entries

        return file_entries(spec, columns)
    if spec.examples is None or not set(columns) <= set(spec.examples):
        raise InputError(f"{spec.source!r} has no examples with {' and '.join(columns)}.")
    return _builtin(spec, cache)


def split_entries(spec: DatasetSpec, entries: Entries) -> dict[str, list[Entry]]:
    """Cap and split examples, in the order of a hash of their keys.

    Raises:
        InputError: There are too few for two splits.
    """
    if spec.scheme == "files" and spec.max_rows is not None:
        kept = sorted(entries.found, key=lambda e: rank(spec.seed, f"{e.key}\x00{e.text}"))
        found = kept[: spec.max_rows]
    else:
        found = entries.found
    if not any(entry.split for entry in found):
        keys = sorted({entry.key for entry in found}, key=lambda key: rank(spec.seed, key))
        share = min(max(1, round(spec.validation_fraction * len(keys))), len(keys) - 1)
        held_out = set(keys[: max(share, 0)])
        sides = [(VALIDATION if entry.key in held_out else TRAIN, entry) for entry in found]
    else:
        sides = [(entry.split, entry) for entry in found]
    splits = {split: [e for side, e in sides if side == split] for split in (TRAIN, VALIDATION)}
    for split, part in splits.items():
        if not part:
            raise InputError(
                f"{spec.source}: no examples for {split}, {len(found)} in all; left out: "
                f"{dict(entries.rejected) or 'nothing'}."
            )
    return splits


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


def _pydoc(spec: DatasetSpec, cache: Path | None) -> Documents:
    from orchestrator.data.sources.pydoc import corpus_identity, corpus_records

    def divide(size: int) -> list[Span]:
        text = corpus_records(spec.max_documents, spec.libraries, cache).text
        ends = np.cumsum([0, *text.str.len()])
        owner = ends[:-1] // size
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(text)]
        return [Span("", a, b, int(ends[b] - ends[a])) for a, b in pairwise(cuts)]

    def read(span: Span, rejected: Counter[str]) -> Iterator[str]:
        frame = corpus_records(spec.max_documents, spec.libraries, cache)
        if span.start == 0:
            rejected.update(frame.attrs["rejected"])
        yield from frame.text.iloc[span.start : span.stop]

    return Documents(lambda: corpus_identity(spec.max_documents, spec.libraries), divide, read)


def _builtin(spec: DatasetSpec, cache: Path | None) -> Entries:
    if spec.location == "digits":
        from orchestrator.data.sources.digits import digit_entries

        return digit_entries(spec)
    if spec.location == "digit_scenes":
        from orchestrator.data.sources.digits import scene_entries

        return scene_entries(spec)
    if spec.location == "morse":
        from orchestrator.data.sources.morse import morse_entries

        return morse_entries(spec, cache)
    from orchestrator.data.sources.pydoc import pair_entries

    return pair_entries(spec, cache)


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
