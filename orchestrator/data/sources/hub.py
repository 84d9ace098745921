"""``hf:``: a data set of the Hugging Face Hub at a pinned revision (extra ``hub``).

The library keeps data sets as memory-mapped files, on every machine that reads them; here they are
read a few rows and one column at a time.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.data.rows.labelled import Table, Tables
from orchestrator.data.rows.labels import LabelForm
from orchestrator.data.sources.contents import (
    TEXT_COLUMNS,
    Documents,
    Span,
    find_column,
    missing_column,
    usable_text,
)
from orchestrator.data.sources.files import SPLIT_NAMES, fill_table
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

ROW_BYTES = 1024  # of a row, about: their sizes are not known before they are read
ROWS_PER_BATCH = 256


def load_splits(spec: DatasetSpec) -> dict[str, Any]:
    """Load the splits of a data set under our names for them.

    Raises:
        InputError: The extra is not installed, the data set or revision cannot be loaded, or it
            has no train split.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{spec.source} needs the extra hub: pip install 'ray-model-orchestrator[hub]'"
        ) from error
    try:
        found = datasets.load_dataset(spec.location, name=spec.subset, revision=spec.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{spec.source} at revision {spec.revision} cannot be loaded: {error}. Check the id, "
            "the revision, the subset and the network."
        ) from error
    names = {name: split for split, aliases in SPLIT_NAMES.items() for name in aliases}
    splits = {names[name]: part for name, part in found.items() if name in names}
    if "train" not in splits:
        raise InputError(f"{spec.source} has no train split. Splits: {', '.join(found)}.")
    return splits


def hub_documents(spec: DatasetSpec) -> Documents:
    """Find the documents of a data set.

    Raises:
        InputError: It cannot be loaded or has no text column.
    """
    train = load_splits(spec)["train"]
    place = Path(spec.location)
    column = find_column(spec.text_column, TEXT_COLUMNS, train.column_names, "text", place)
    if column is None:
        message = missing_column("text_column", TEXT_COLUMNS, train.column_names, place)
        raise InputError(message)

    texts = train.select_columns([column])

    def divide(size: int) -> list[Span]:
        rows, run = len(train), max(1, size // ROW_BYTES)
        borders = [*range(0, rows, run), rows]
        return [Span("", a, b, (b - a) * ROW_BYTES) for a, b in pairwise(borders)]

    def read(span: Span, rejected: Counter[str]) -> Iterator[str]:
        for start in range(span.start, span.stop, ROWS_PER_BATCH):
            for text in texts[start : min(start + ROWS_PER_BATCH, span.stop)][column]:
                if (usable := usable_text(text, rejected)) is not None:
                    yield usable

    identity: dict[str, object] = {
        "id": spec.location,
        "subset": spec.subset,
        "revision": spec.revision,
        "text_column": column,
        "limit": spec.max_documents,
    }
    return Documents(lambda: identity, divide, read, spec.max_documents)


def read_tables(spec: DatasetSpec, form: LabelForm) -> Tables:
    """Read the labelled rows of a data set.

    Raises:
        InputError: It cannot be loaded, or a column is missing.
    """
    place = Path(spec.location)
    rejected: Counter[str] = Counter()
    loaded = load_splits(spec)
    splits: dict[str, Table] = {}
    for split, part in loaded.items():
        splits[split] = Table()
        fill_table(spec, form, splits[split], part, place, rejected)
    train = loaded["train"]
    column = find_column(spec.label_column, form.label_columns, train.column_names, "label", place)
    feature = train.features.get(column)
    names = getattr(getattr(feature, "feature", feature), "names", None)  # of each, if a list
    return Tables(place.name, splits, tuple(names) if names else None, rejected)
