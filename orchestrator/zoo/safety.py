"""Limits on the content of a package: no file that runs code, no header that exhausts memory."""

import json
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.storage.operations import open_regular

ALLOWED = frozenset(
    {".safetensors", ".onnx", ".json", ".jsonl", ".parquet", ".yaml", ".yml"}
    | {".txt", ".md", ".csv", ".tsv"}
)
"""Endings of files that hold data only."""
ALLOWED_NAMES = frozenset(
    {"LICENSE", "LICENCE", "NOTICE"}
    | {"spiece.model", "sentencepiece.bpe.model", "tokenizer.model"}
    | {"spm.model", "source.spm", "target.spm", "chat_template.jinja"}
)
"""Text files that traditionally have no ending; vocabularies of SentencePiece, which are plain
protocol buffers whatever their ending suggests; and the template of chats, which transformers
renders in a sandbox."""
PICKLES = frozenset(
    {".pt", ".pth", ".bin", ".pkl", ".pickle", ".pt2", ".ckpt", ".joblib"}
    | {".npy", ".npz", ".h5", ".model"}
)
"""Endings of formats whose usual readers can run code, named in the message."""
MAX_HEADER_BYTES = 4 * 2**20
"""Largest safetensors header read: about 40,000 tensors. More belong in shards."""
_LENGTH_BYTES = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element of each safetensors type."""


def require_allowed_names(where: str, names: Iterable[str]) -> None:
    """Refuse every file whose ending is not in `ALLOWED`.

    Raises:
        IntegrityError: Naming the file and what is allowed.
    """
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in ALLOWED or path.name in ALLOWED_NAMES:
            continue
        why = "can run code when it is read" if path.suffix in PICKLES else "is not known"
        raise IntegrityError(
            f"{where}/{name}: refused: this kind of file {why}. A package holds only "
            f"{' '.join(sorted(ALLOWED))}."
        )


def require_sane_tensors(path: Path) -> None:
    """Check the header of a safetensors file against its size, without reading the tensors.

    Raises:
        IntegrityError: Truncated, a header too large or damaged, or tensors that overlap, leave
            holes or reach past the end.
    """
    header, held = _read_header(path)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise _damaged(path, f"tensor {name!r} begins at byte {begin}, expected {position}")
        position = end
    if position != held:
        raise _damaged(path, f"its tensors need {position} bytes, it holds {held}")


def count_elements(path: Path) -> int:
    """Return the number of elements of all tensors of a safetensors file, from its header.

    Raises:
        IntegrityError: The header is damaged.
    """
    header, _ = _read_header(path)
    for name, entry in header.items():
        _span(path, name, entry)
    return sum(math.prod(entry["shape"]) for entry in header.values())


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the entries of the tensors, and how many bytes follow the header."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES:
            raise _damaged(path, f"{size} bytes are too short for a safetensors file")
        (length,) = struct.unpack("<Q", start)
        if length > size - _LENGTH_BYTES:
            raise _damaged(path, f"its header claims {length} bytes, the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise _damaged(path, f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
        data = file.read(length)
    try:
        header = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a mapping")
    header.pop("__metadata__", None)
    return header, size - _LENGTH_BYTES - length


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """Return where a tensor begins and ends, after checking it against its type and shape."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        bits = _BITS[dtype] * math.prod(shape) if whole else -1
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"the header of tensor {name[:80]!r} is not valid") from error
    if bits != (end - begin) * 8:
        raise _damaged(path, f"tensor {name[:80]!r} has not the bytes its shape needs")
    return begin, end, name


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path}: damaged: {what}. Restore it from a copy or make it again.")
