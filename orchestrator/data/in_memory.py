"""Tables in memory as files of a job, named after their content, so that the job is repeatable."""

import io
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from orchestrator.data.sources.lines import REPAIRED, repaired, well_formed
from orchestrator.errors import InputError
from orchestrator.storage import atomic_write_bytes, sha256_bytes
from orchestrator.storage.json_files import jsonable
from orchestrator.storage.uris import local_path

if TYPE_CHECKING:
    import pandas as pd

    Table: TypeAlias = pd.DataFrame | Sequence[Mapping[str, Any]]
    """Rows in memory: a DataFrame, or one mapping per row."""

logger = logging.getLogger(__name__)

PLACES = ("source", "input")
"""Settings that name a file, where a table may stand."""

FOLDER = "data"
"""Folder of such files below ``run.dir``."""


def is_table(value: object) -> "TypeGuard[Table]":
    """Return whether a value is a DataFrame or a list of mappings."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(row, Mapping) for row in value)
    return hasattr(value, "to_parquet") and hasattr(value, "columns")


def stored(value: "Table", folder: Path) -> str:
    """Write a table as Parquet (a DataFrame) or JSONL (a list); return ``files:<path>``.

    Args:
        value: The table.
        folder: Where to; the name of the file is the digest of its content.

    Raises:
        InputError: It has no rows, or values that a file cannot hold.
    """
    if not len(value):
        raise InputError("the table has no rows.")
    data, suffix = _parquet(value) if hasattr(value, "to_parquet") else _jsonl(value)
    path = folder / f"{sha256_bytes(data)[:16]}{suffix}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, data)
    return f"files:{path}"


def with_stored_tables(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a job in which every table is the file that holds it.

    Files go to ``<run.dir>/data``.

    Raises:
        InputError: There is a table, and ``run.dir`` is on an object store.
    """
    section = settings.get("run", {})
    base = str(section.get("dir", "runs")) if isinstance(section, Mapping) else "runs"
    path = local_path(base)
    folder = None if path is None else path.absolute() / FOLDER

    def replaced(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: replaced(name, part) for name, part in value.items()}
        if key in PLACES and is_table(value):
            if folder is None:
                raise InputError(
                    f"a table in memory is written to a file below run.dir, and {base} is on an "
                    "object store. Write it to a file that all workers see, and name that."
                )
            return stored(value, folder)
        if isinstance(value, list | tuple):
            return [replaced("", part) for part in value]
        return value

    return {name: replaced(name, value) for name, value in settings.items()}


def _parquet(frame: Any) -> tuple[bytes, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise InputError(f"two columns of the DataFrame have the same name: {', '.join(names)}.")
    try:
        try:
            table = pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
        except UnicodeEncodeError:
            table = pa.Table.from_pandas(_repaired(frame), preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(f"the DataFrame cannot be written as Parquet: {error}.") from error
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), file)
    return file.getvalue(), ".parquet"


def _repaired(frame: Any) -> Any:
    """Return a DataFrame whose texts UTF-8 can write, and say how many rows were changed."""
    texts = frame.rename(columns=str).select_dtypes(object)
    rows = texts.to_dict("records")
    counts: Counter[str] = Counter()
    whole = [repaired(row, counts) for row in rows]
    logger.warning("%d × %s", counts[REPAIRED], REPAIRED)
    columns = {name: [row[name] for row in whole] for name in texts.columns}
    return frame.rename(columns=str).assign(**columns)


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> tuple[bytes, str]:
    try:
        lines = [_line(jsonable(dict(row))) for row in rows]
    except TypeError as error:
        raise InputError(f"a row cannot be written as JSON: {error}.") from error
    return "".join(f"{line}\n" for line in lines).encode(), ".jsonl"


def _line(row: Any) -> str:
    """Return a row as JSON; half of a surrogate pair stays escaped, as UTF-8 cannot write it."""
    line = json.dumps(row, ensure_ascii=False)
    return line if well_formed(line) == line else json.dumps(row)
