"""Weights in safetensors: one file, or shards with an index as in Hugging Face's layout.

Both are read and written tensor by tensor, so a checkpoint is never in memory as a whole.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import INDEX, WEIGHTS
from orchestrator.storage import FileEntry, write_hashed

SHARD_BYTES = 5 * 10**9
"""Tensors that need more go into several files of at most about this size."""

Fetch = Callable[[str], Tensor]
"""Reads one tensor by its name."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""Name of an element type in the files → torch's."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = (
    "I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL",
)  # fmt: skip
"""Order of element types in a file: the wide ones first, as safetensors' own writer has it."""
_ALIGNMENT = 8


def weight_files(folder: Path) -> dict[str, Path]:
    """Return the file of each stored tensor; only headers are read.

    Raises:
        InputError: There are no safetensors here.
        IntegrityError: A file is missing, damaged or outside the folder, or the files do not hold
            what the index says.
    """
    index = folder / INDEX
    if not index.is_file() and not (folder / WEIGHTS).is_file():
        others = [p.name for ending in ("*.bin", "*.pt", "*.h5") for p in folder.glob(ending)]
        raise InputError(
            f"{folder} has no {WEIGHTS} (other weights: {', '.join(sorted(others)) or 'none'}). "
            "Only safetensors are read: convert the checkpoint with `save_pretrained`."
        )
    if not index.is_file():
        return dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
    mapping = _weight_map(index)
    for file in sorted(set(mapping.values())):
        if not (folder / file).is_file():
            raise IntegrityError(f"{folder / file} is missing; {INDEX} lists it. Restore it.")
        expected = {name for name, where in mapping.items() if where == file}
        differing = sorted(set(_names(folder / file)) ^ expected)
        if differing:
            raise IntegrityError(
                f"{folder / file} does not hold what {INDEX} says: {', '.join(differing)}. "
                "Restore it."
            )
    return {name: folder / file for name, file in mapping.items()}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        mapping: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        plain = {str(name): str(file) for name, file in mapping.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{index} cannot be read: {error!r}. Restore it.") from error
    for file in plain.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise IntegrityError(f"{index}: {file!r} is not the name of a safetensors file.")
    return plain


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(str(path), framework="pt")
    except Exception as error:  # safetensors raises its own type and OSError
        raise IntegrityError(f"{path} cannot be read: {error}. Restore it.") from error
    with file as entered:
        yield entered


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def skeletons(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Return each tensor's shape and element type, as tensors on the meta device.

    Raises:
        IntegrityError: A file cannot be read, or holds elements of an unknown type.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(set(files.values())):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                kind, shape = part.get_dtype(), part.get_shape()
                if kind not in DTYPES:
                    allowed = ", ".join(DTYPES)
                    raise IntegrityError(f"{path}: {name} has type {kind}; read are {allowed}.")
                found[name] = torch.empty(shape, dtype=DTYPES[kind], device="meta")
    return {name: found[name] for name in files}


class TensorReader:
    """Reads tensors by name; one file is mapped at a time, and none is loaded as a whole."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._path: Path | None = None
        self._open: Any = None

    def __call__(self, name: str) -> Tensor:
        """Return a tensor; its memory is the file's until it is changed."""
        path = self._files[name]
        if path != self._path:
            self._path, self._open = path, safe_open(str(path), framework="pt")
        tensor: Tensor = self._open.get_tensor(name)
        return tensor

    def release(self) -> None:
        """Give back the memory of the file, once the tensors that were read are gone, too."""
        self._path = self._open = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Destination of a tensor: a file, its first byte, and the expected shape and type."""

    file: str
    begin: int
    skeleton: Tensor


def write_tensors(
    folder: Path,
    layout: Mapping[str, Tensor],
    tensors: Iterable[tuple[str, Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors as they come; one at a time is in memory.

    Args:
        folder: An existing folder.
        layout: Name → a tensor of the same shape and type, on the meta device for example.
        tensors: The tensors, in any order, each name of ``layout`` once.
        shard_bytes: Write several files with an index when all tensors need more.

    Raises:
        ValueError: A tensor is not as the layout says, or they are not all there.
    """
    places, headers = _plan(layout, shard_bytes)
    for file, header in headers.items():
        (folder / file).write_bytes(header)
    left = set(places)
    for name, tensor in tensors:
        place = places[name]
        if tensor.shape != place.skeleton.shape or tensor.dtype != place.skeleton.dtype:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not as announced")
        left.remove(name)
        with (folder / place.file).open("r+b") as opened:
            opened.seek(len(headers[place.file]) + place.begin)
            _write(opened, tensor)
    if left:
        raise ValueError(f"tensors never came: {', '.join(sorted(left))}")
    if len(headers) > 1:
        total = sum(_size(skeleton) for skeleton in layout.values())
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: places[name].file for name in sorted(places)},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Write one file and hash it on the way.

    safetensors' own writer gives no hash, and reading a large file back takes as long again.

    Args:
        path: Replaced when it is there.
        tensors: By name.
    """
    places: dict[str, _Place] = {}
    header = _header(path.name, tensors, places)

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        for name in places:  # in the order of the header
            yield _bytes(tensors[name])

    return write_hashed(path, pieces())


def _write(file: BinaryIO, tensor: Tensor) -> None:
    file.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> bytes | memoryview:
    if not tensor.numel():
        return b""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    view: memoryview = flat.view(torch.uint8).numpy().data
    return view


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _plan(
    layout: Mapping[str, Tensor], shard_bytes: int
) -> tuple[dict[str, _Place], dict[str, bytes]]:
    """Return the place of each tensor and the header of each file."""
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in layout.items():
        if used and used + _size(tensor) > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += _size(tensor)
    count = len(shards)
    names = [WEIGHTS]
    if count > 1:
        names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    places: dict[str, _Place] = {}
    headers: dict[str, bytes] = {}
    for file, shard in zip(names, shards, strict=True):
        headers[file] = _header(file, shard, places)
    return places, headers


def _header(file: str, shard: Mapping[str, Tensor], places: dict[str, _Place]) -> bytes:
    """Note where a file's tensors go; return what the file begins with.

    Wide elements come first, so that every tensor begins at a multiple of its element size; the
    file is byte for byte what safetensors' own writer makes of the same tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    order = {DTYPES[name]: place for place, name in enumerate(_ORDER)}
    for name, tensor in sorted(shard.items(), key=lambda item: (order[item[1].dtype], item[0])):
        end = begin + _size(tensor)
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        places[name] = _Place(file, begin, tensor)
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
