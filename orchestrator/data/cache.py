"""The cache folder, and tables in it: Parquet, written atomically, rebuilt when damaged."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import StageError
from orchestrator.storage import atomic_write_bytes

logger = logging.getLogger(__name__)

ATTRIBUTES = b"orchestrator"


def default_cache() -> Path:
    """Return the user's cache folder: ``ORCHESTRATOR_CACHE``, else below ``XDG_CACHE_HOME``."""
    own = os.environ.get("ORCHESTRATOR_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "ray-model-orchestrator"


def cached_table(
    name: str,
    request: dict[str, object],
    build: Callable[[], pd.DataFrame],
    cache: Path | None,
) -> pd.DataFrame:
    """Return a table from the cache, or build it and keep it there.

    Args:
        name: Folder and beginning of the file name.
        request: Everything that decides the table, JSON-able.
        build: Makes the table; its ``attrs`` (JSON-able) are stored.
        cache: Folder of the cache; None takes the user's.
    """
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
    path = (cache or default_cache()) / f"{name}-{digest}.parquet"
    frame = read_table(path)
    if frame is None:
        frame = build()
        write_table(path, frame)
        logger.info("event=table_cached name=%s rows=%d", name, len(frame))
    return frame


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table and its ``attrs`` (JSON-able); a cache that cannot be written is left out."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    attributes = {**(table.schema.metadata or {}), ATTRIBUTES: json.dumps(frame.attrs).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(attributes), sink, compression="zstd")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, sink.getvalue().to_pybytes())
    except (OSError, StageError) as error:
        logger.warning("event=cache_not_written path=%s reason=%r", path, str(error))


def read_table(path: Path) -> pd.DataFrame | None:
    """Read a table with its ``attrs``; None where there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        frame: pd.DataFrame = table.to_pandas()
        frame.attrs = json.loads((table.schema.metadata or {})[ATTRIBUTES])
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        logger.warning("event=damaged_cache_rebuilt path=%s reason=%r", path, str(error))
        return None
    return frame
