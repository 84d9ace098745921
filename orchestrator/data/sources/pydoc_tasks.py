"""The labelled tasks of ``builtin:pydoc``, read as one table of texts and labels.

A text counts once: near-duplicates (same words after names, numbers and punctuation are folded) are
dropped, and those that appear under two labels are dropped altogether. Every class gets the same
number of rows where there are enough; a class with fewer than ``MIN_CLASS_ROWS`` is left out.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from orchestrator.data.sources.docstrings import Docstring
from orchestrator.data.sources.libraries import Library, find_library, list_files, versions
from orchestrator.data.sources.pydoc import Record, Shelf, cached_records
from orchestrator.data.sources.pydoc_areas import AREAS, LIBRARIES, ROLES
from orchestrator.data.sources.pydoc_forms import FORMS, without_header
from orchestrator.data.splitting import fingerprint
from orchestrator.errors import InputError

CLASS_ROWS = 600  # rows of a class before splitting
MIN_CLASS_ROWS = 60
FORM_RATIO = 1.25  # of the largest class to the smallest; forms are never scarce by nature
SPARE = 1.25  # near-duplicates are dropped after reading
POOL_DOCUMENTS = 900  # per library, for the form tasks
TEXT_CHARACTERS = 1000  # more than a tiny model reads


def task_table(task: str, cache: Path | None = None) -> pd.DataFrame:
    """Return the rows of a task, balanced, in an order that depends on their text alone.

    Args:
        task: a key of ``catalogue.PYDOC_TASKS``.
        cache: folder of the cache; None takes the user's.

    Returns:
        Columns text and label (a name); ``attrs["rejected"]`` counts what was left out, by reason.

    Raises:
        InputError: fewer than two classes have enough rows with the installed libraries.
    """
    pairs = _form_pairs(task, cache) if task in FORMS else _area_pairs(task, cache)
    table = _distinct(pairs)
    sizes = table.label.value_counts()
    kept = sizes[sizes >= MIN_CLASS_ROWS].index
    if len(kept) < 2:
        raise InputError(
            f"builtin:pydoc/{task}: the installed libraries give fewer than two classes of "
            f"{MIN_CLASS_ROWS} rows ({dict(sizes)}). Install them as pyproject.toml pins them."
        )
    table.attrs["rejected"]["class too small"] = int(sizes.sum() - sizes[kept].sum())
    rows = min(CLASS_ROWS, int(sizes[kept].min() * FORM_RATIO)) if task in FORMS else CLASS_ROWS
    balanced = table[table.label.isin(kept)].groupby("label", sort=False).head(rows)
    return balanced.reset_index(drop=True)


def _distinct(pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Drop empty, repeated and contradictory texts; order by fingerprint."""
    table = pd.DataFrame(list(pairs), columns=["text", "label"])
    table["key"] = [fingerprint(text) for text in table.text]
    usable = table[table.key != ""]
    rejected = Counter({"no words": len(table) - len(usable)})
    contradictory = usable.groupby("key").label.transform("nunique") > 1
    rejected["two labels"] = int(contradictory.sum())
    usable = usable[~contradictory]
    once = usable.drop_duplicates("key")
    rejected["repeated"] = len(usable) - len(once)
    order = [hashlib.sha256(key.encode()).hexdigest() for key in once.key]
    result = once.assign(order=order).sort_values("order")[["text", "label"]]
    result.attrs["rejected"] = dict(rejected)
    return result


def _form_pairs(task: str, cache: Path | None) -> list[tuple[str, str]]:
    label_of, text_of = FORMS[task]
    shelves = [Shelf(find_library(name), label=name) for name in LIBRARIES]
    frame = _read("forms", shelves, POOL_DOCUMENTS, cache)
    pairs = []
    for row in frame[list(Docstring._fields)].itertuples(index=False):
        document = Docstring._make(None if value is pd.NA else value for value in row)
        label = label_of(document)
        if label is not None:
            pairs.append((text_of(document.text)[:TEXT_CHARACTERS], label))
    return pairs


def _area_pairs(task: str, cache: Path | None) -> list[tuple[str, str]]:
    frame = _read(task, _area_shelves(task), int(CLASS_ROWS * SPARE), cache)
    texts = [without_header(text)[:TEXT_CHARACTERS] for text in frame.text]
    return list(zip(texts, frame.label, strict=True))


def _area_shelves(task: str) -> list[Shelf]:
    """Return one shelf a class."""
    if task == "library":
        return [Shelf(find_library(name), label=name) for name in LIBRARIES]
    if task == "transformers_role":
        library = find_library("transformers")
        return [Shelf(library, _role_files(library, role), label=role) for role in ROLES]
    name, areas = AREAS[task]
    library = find_library(name)
    return [Shelf(library, prefixes, label=label) for label, prefixes in areas.items()]


def _role_files(library: Library, role: str) -> tuple[str, ...]:
    files = list_files(library, ("models",))
    return tuple(file for file in files if file.rpartition("/")[2].startswith(f"{role}_"))


def _read(name: str, shelves: list[Shelf], each: int, cache: Path | None) -> pd.DataFrame:
    """Read ``each`` documents of every shelf, through the cache."""

    def build() -> tuple[list[Record], dict[str, int]]:
        records = [record for shelf in shelves for record in shelf.take(each, set())]
        return records, dict(sum((shelf.rejected for shelf in shelves), Counter()))

    request: dict[str, object] = {
        "each": each,
        "shelves": [(shelf.library.name, shelf.label, shelf.prefixes) for shelf in shelves],
        "versions": versions([shelf.library for shelf in shelves]),
    }
    return cached_records(name, request, build, cache)
