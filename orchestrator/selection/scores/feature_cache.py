"""Features on disk: another proxy or another number of candidates does not read a model again.

One file per package, rows and settings, named by a digest of what decides the features: weights,
config and tokenizer, the sampled rows, the longest text, the layers, the head. Nothing is ever
stale, so nothing is invalidated; the least recently used files go when the folder is too large.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.storage import atomic_write_bytes

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows

FOLDER = ".features"
"""Folder of the files, beside the run folders."""
MAX_BYTES = 2 << 30
FORMAT = 1
Features = tuple[FloatArray, FloatArray | None]
logger = logging.getLogger(__name__)


def rows_digest(rows: "Rows") -> str:
    """Digest of the inputs of rows; labels decide no features."""
    digest = hashlib.sha256()
    for column in fields(rows):
        value = getattr(rows, column.name)
        if value is None or column.name == "labels":
            continue
        if isinstance(value, np.ndarray):
            parts: Iterable[bytes] = (f"{value.shape} {value.dtype}".encode(), value.tobytes())
        elif value and isinstance(value[0], bytes):
            parts = (hashlib.sha256(content).digest() for content in value)
        else:
            parts = (json.dumps(value).encode(),)
        digest.update(column.name.encode())
        for part in parts:
            digest.update(part)
    return digest.hexdigest()


def cached_features(
    folder: Path | None, key: tuple[object, ...], compute: Callable[[], Features]
) -> tuple[Features, bool]:
    """Return the features of a key, and whether they were read from the cache.

    Args:
        folder: The cache; None: there is none.
        key: What decides the features, as JSON values.
        compute: Runs the model forward.
    """
    if folder is None:
        return compute(), False
    name = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()
    path = folder / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as found:
            features = found["features"].astype(np.float64)
            heads = found["probabilities"].astype(np.float64) if "probabilities" in found else None
        os.utime(path)
        return (features, heads), True
    except FileNotFoundError:
        pass
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        BadZipFile,
    ) as error:  # a damaged file is made anew
        logger.warning("%s is not readable (%s): the model is read again", path, error)
    features, heads = compute()
    buffer = io.BytesIO()
    # Models compute in float32 or less: nothing is lost.
    arrays = {"features": features.astype(np.float32)}
    if heads is not None:
        arrays["probabilities"] = heads.astype(np.float32)
    np.savez(buffer, allow_pickle=False, **arrays)
    atomic_write_bytes(path, buffer.getvalue())
    _trim(folder)
    return (features, heads), False


def _trim(folder: Path) -> None:
    """Remove the least recently used files until the folder is within `MAX_BYTES`."""
    found = [(path, path.stat()) for path in folder.glob("*.npz")]
    excess = sum(stat.st_size for _, stat in found) - MAX_BYTES
    for path, stat in sorted(found, key=lambda item: item[1].st_mtime):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size
