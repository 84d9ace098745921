"""``hf:``: a data set of the Hugging Face Hub at a pinned revision (extra ``hub``)."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.data.documents import Reader
from orchestrator.data.labelled import Table, Tables
from orchestrator.data.sources.files import (
    LABEL_COLUMNS,
    SPLIT_NAMES,
    TEXT_COLUMNS,
    fill_table,
    find_column,
    missing_column,
    usable_text,
)
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError


def load_splits(spec: DatasetSpec) -> dict[str, Any]:
    """Load the splits of a data set under our names for them.

    Raises:
        InputError: the extra is not installed, the data set or revision cannot be loaded, or it
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


def hub_documents(spec: DatasetSpec) -> tuple[dict[str, object], Reader]:
    """Return what identifies the documents of a data set, and their reader.

    Raises:
        InputError: it cannot be loaded or has no text column.
    """
    train = load_splits(spec)["train"]
    place = Path(spec.location)
    column = find_column(spec.text_column, TEXT_COLUMNS, train.column_names, "text", place)
    if column is None:
        message = missing_column("text_column", TEXT_COLUMNS, train.column_names, place)
        raise InputError(message)

    def read(rejected: Counter[str]) -> Iterator[str]:
        texts = (usable_text(row[column], rejected) for row in train)
        yield from islice((text for text in texts if text is not None), spec.max_documents)

    identity: dict[str, object] = {
        "id": spec.location,
        "subset": spec.subset,
        "revision": spec.revision,
        "text_column": column,
        "limit": spec.max_documents,
    }
    return identity, read


def read_tables(spec: DatasetSpec) -> Tables:
    """Read the labelled rows of a data set.

    Raises:
        InputError: it cannot be loaded, or a column is missing.
    """
    place = Path(spec.location)
    rejected: Counter[str] = Counter()
    loaded = load_splits(spec)
    splits: dict[str, Table] = {}
    for split, part in loaded.items():
        splits[split] = Table()
        fill_table(spec, splits[split], part, place, rejected)
    train = loaded["train"]
    column = find_column(spec.label_column, LABEL_COLUMNS, train.column_names, "label", place)
    names = getattr(train.features.get(column), "names", None)
    return Tables(place.name, splits, tuple(names) if names else None, rejected)
