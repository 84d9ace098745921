"""JSON as it is stored: strict (no NaN), complete, and read with a size and depth that are sane."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.config.messages import to_problems
from orchestrator.config.strict import StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.storage.operations import open_regular

Model = TypeVar("Model", bound=StrictModel)

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file read."""


def jsonable(value: Any) -> Any:
    """Return plain JSON data for models, dataclasses, NumPy values, paths, tuples and sets.

    A float that JSON cannot hold (NaN, infinity) becomes null.

    Raises:
        TypeError: A value of another kind.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {_key(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return jsonable(_simpler(value))


def _simpler(value: Any) -> Any:
    """Return a value of a rarer kind as one that `jsonable` knows."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON: {value!r}")


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(jsonable(key))


def json_bytes(value: Any) -> bytes:
    """Return a value as indented UTF-8 JSON with a newline at the end."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass") + b"\n"


def parse_json(data: bytes, name: str | Path) -> Any:
    """Parse stored JSON.

    Raises:
        IntegrityError: Not UTF-8, not JSON, or nested too deep; the message names the file.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name}: damaged: not valid JSON ({error}).") from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: It is damaged, larger than `MAX_JSON_BYTES`, or no regular file.
    """
    file = Path(path)
    return parse_json(read_limited(file, MAX_JSON_BYTES), file)


def read_model(path: str | Path, kind: type[Model]) -> Model:
    """Read a JSON file that was written from a model.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: As `read_json`, or it is not what the model describes.
    """
    return parse_model(read_json(path), kind, str(path))


def parse_model(content: Any, kind: type[Model], where: str) -> Model:
    """Return stored JSON data as the model it was written from.

    Args:
        content: The data.
        kind: The model.
        where: What messages call it.

    Raises:
        IntegrityError: It is not what the model describes; lists the first five problems.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(str(problem) for problem in to_problems(kind, error)[:5])
        raise IntegrityError(f"{where}: damaged: {problems}") from error


def read_limited(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: Larger, a link, a device or unreadable.
    """
    try:
        with open_regular(path) as file:
            data: bytes = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(data) > limit:
        raise IntegrityError(f"{path}: larger than the {limit:,} bytes allowed for this file.")
    return data
