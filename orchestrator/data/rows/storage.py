"""Rows as Parquet, whatever their form, and the fingerprint of rows.

One column per field of ``Rows`` that is set; the form of arrays is in the metadata of the file.
Home-made because no library stores rows of labels, texts, pixels and file contents with a digest
that does not depend on the library's version: bytes of a Parquet file do.
"""

import json
from collections.abc import Iterable
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.rows.rows import Rows
from orchestrator.errors import IntegrityError

METADATA = b"orchestrator.rows"
SCHEMA_VERSION = 1
NUMBERS = "array"
"""Form of an array of numbers, [N, ...]: flattened rows, shape and type in the metadata."""
LISTS = "arrays"
"""Form of N arrays of whole numbers, which differ in length."""
TEXTS = "texts"
"""Form of an object array of N texts."""
JSON = "json"
"""Form of an object array of N other values, as JSON."""


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows to a Parquet file.

    Args:
        path: The file; its folder is made.
        rows: Rows of any form.
    """
    columns: dict[str, pa.Array] = {}
    forms: dict[str, dict[str, Any]] = {}
    for name, values in _set_fields(rows):
        if isinstance(values, np.ndarray):
            columns[name], forms[name] = _array_column(values)
        else:
            columns[name] = pa.array([list(v) if isinstance(v, tuple) else v for v in values])
            forms[name] = {"form": "list", "tuples": any(isinstance(v, tuple) for v in values)}
    metadata = json.dumps({"schema_version": SCHEMA_VERSION, "fields": forms}, sort_keys=True)
    table = pa.table(columns).replace_schema_metadata({METADATA: metadata.encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path) -> Rows:
    """Read what ``write_rows`` wrote.

    Raises:
        IntegrityError: The file is damaged, or was not written by it.
    """
    try:
        table = pq.read_table(path)
        stored = json.loads((table.schema.metadata or {})[METADATA])
        found: dict[str, Any] = {"texts": [], "pairs": None}
        for name, form in stored["fields"].items():
            found[name] = _values(table[name].combine_chunks(), form)
        return Rows(**found)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} holds no readable rows: {error}") from error


def fingerprint(rows: Rows) -> str:
    """Return the SHA-256 over all rows in their order, hexadecimal; slices are no part of it."""
    digest = sha256()
    for name, values in _set_fields(replace(rows, slices=None)):
        digest.update(f"{name}:{len(values)};".encode())
        for value in values:
            for part in _parts(value):
                digest.update(f"{len(part)}:".encode())
                digest.update(part)
            digest.update(b";")
    return digest.hexdigest()


def _set_fields(rows: Rows) -> Iterable[tuple[str, Any]]:
    """Yield the fields that have a value per row."""
    for field in fields(rows):
        values = getattr(rows, field.name)
        if values is not None and len(values):
            yield field.name, values


def _array_column(values: npt.NDArray[Any]) -> tuple[pa.Array, dict[str, Any]]:
    """Return the column of an array of N rows, and its form."""
    if values.dtype != object:
        flat = values.reshape(len(values), -1)
        form = {"form": NUMBERS, "dtype": values.dtype.name, "shape": list(values.shape[1:])}
        if values.ndim == 1:
            return pa.array(values), form
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1]), form
    if all(isinstance(value, np.ndarray) for value in values):
        return pa.array([value.tolist() for value in values], pa.list_(pa.int64())), {"form": LISTS}
    if all(isinstance(value, str) for value in values):
        return pa.array(list(values)), {"form": TEXTS}
    return pa.array([json.dumps(_plain(value)) for value in values]), {"form": JSON}


def _values(column: pa.Array, form: dict[str, Any]) -> Any:
    """Return the values of a column."""
    kind = form["form"]
    if kind == "list":
        values = column.to_pylist()
        return [tuple(value) for value in values] if form["tuples"] else values
    if kind == NUMBERS:
        flat = column if pa.types.is_primitive(column.type) else column.flatten()
        numbers = flat.to_numpy(zero_copy_only=False).astype(form["dtype"])
        return numbers.reshape(len(column), *form["shape"])
    found = np.empty(len(column), dtype=object)
    for row, value in enumerate(column.to_pylist()):
        if kind == LISTS:
            found[row] = np.asarray(value, dtype=np.int64)
        else:
            found[row] = value if kind == TEXTS else _tuples(json.loads(value))
    return found


def _plain(value: Any) -> Any:
    """Return a nested value with tuples as lists, as JSON has them."""
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    """Return a nested value with lists as tuples, as labels have them."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _parts(value: Any) -> Iterable[bytes]:
    """Yield what a value consists of, in bytes that do not depend on the machine."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield value.encode("utf-8", errors="surrogatepass")
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part)
    else:
        array = np.asarray(value)
        yield array.astype(array.dtype.newbyteorder("<")).tobytes()
