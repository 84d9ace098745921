r"""Lines of text files: UTF-8, gzip included, from any byte on; and text that UTF-8 can write.

A byte that is not UTF-8 is an error with its place and the command that converts the file; so are
UTF-16 and lines that end with CR alone. Half of a surrogate pair (``"\ud83d"`` in JSON, an emoji
cut in two) ends no job: it becomes U+FFFD as in browsers (``String.prototype.toWellFormed``), and
the row is counted under ``REPAIRED``.
"""

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from orchestrator.errors import InputError

Range = tuple[int, int | None]
WHOLE: Range = (0, None)
BYTE_ORDER_MARK = "\ufeff"
COPY_BYTES = 1 << 20
SNIFFED_BYTES = 1 << 12
"""Beginning of a file that shows its encoding."""
MIN_NULS = 4
"""One NUL in so many bytes of valid UTF-8 is UTF-16: Latin letters have one in two there."""

REPAIRED = "row with half of a character, which became U+FFFD"
"""Entry of a count of rows left out by reason for rows that stay, repaired."""


def suffix_of(path: Path) -> str:
    """Return the suffix that says the format, without .gz and in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def is_compressed(path: Path) -> bool:
    """Return whether a file can only be read from its beginning."""
    return path.name.lower().endswith(".gz")


def read_lines(path: Path, within: Range = WHOLE) -> Iterator[str]:
    """Yield the lines of a text file with their line ends.

    Raises:
        InputError: A byte is not UTF-8, or the file cannot be read; names file, line and byte.
    """
    return (line for line, _ in lines_and_ends(path, within))


def lines_and_ends(path: Path, within: Range = WHOLE) -> Iterator[tuple[str, int]]:
    """Yield each line of a text file and the byte after it; see :func:`read_lines`."""
    place, stop = within
    if stop is not None and place >= stop:
        return
    try:
        with _open(path) as file:
            if place == 0:
                _require_readable(path, file)
            file.seek(place)
            for raw in file:
                line = _decode(path, raw, place)
                place += len(raw)
                yield line, place
                if stop is not None and place >= stop:
                    return
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def lines_before(path: Path, offset: int) -> int:
    """Return the number of lines before a byte of a text file; reads up to it."""
    count = 0
    with _open(path) as file:
        while offset > 0 and (part := file.read(min(offset, COPY_BYTES))):
            count += part.count(b"\n")
            offset -= len(part)
    return count


def well_formed(text: str) -> str:
    """Return a text in which each half of a surrogate pair is U+FFFD."""
    if text.isascii() or _is_whole(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repaired(row: Mapping[str, object], counts: Counter[str]) -> Mapping[str, object]:
    """Return a row whose cells UTF-8 can write; counts it under ``REPAIRED`` if one could not."""
    if _is_whole(row):
        return row
    counts[REPAIRED] += 1
    return {well_formed(name): _repaired(value) for name, value in row.items()}


def _repaired(value: object) -> object:
    """Return a value, lists and mappings included, whose texts UTF-8 can write."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        return {_repaired(name): _repaired(part) for name, part in value.items()}
    return list(map(_repaired, value)) if isinstance(value, list) else value


def _is_whole(value: object) -> bool:
    if isinstance(value, str):
        try:
            value.isascii() or value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, Mapping):
        return all(map(_is_whole, value)) and all(map(_is_whole, value.values()))
    return not isinstance(value, list) or all(map(_is_whole, value))


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if is_compressed(path) else path.open("rb")


def _require_readable(path: Path, file: BinaryIO) -> None:
    """Refuse what would be read as one long line, or as text with a NUL in every other place.

    Raises:
        InputError: The file is UTF-16, or its lines end with CR alone; names the command.
    """
    head = file.read(SNIFFED_BYTES)
    coding = _utf16(head, MIN_NULS)
    if coding is not None:
        raise InputError(f"{path} is {coding.upper()}, not UTF-8. {_conversion(path, coding)}")
    head += file.read(COPY_BYTES) if b"\r" in head and b"\n" not in head else b""
    if b"\r" in head[:-1] and b"\n" not in head:
        raise InputError(
            f"{path}: its lines end with CR alone, as old Macs wrote them. Convert the file "
            f"first, for example: tr '\\r' '\\n' < {path.name} > converted{path.suffix}"
        )


def _utf16(head: bytes, share: int) -> str | None:
    """Return the UTF-16 encoding that the beginning of a file shows, or None.

    Args:
        head: The beginning.
        share: One byte in at least so many is NUL where no byte order mark says it.
    """
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    low, high = head[1::2].count(0), head[::2].count(0)
    if low + high < 2 or share * (low + high) < len(head):
        return None
    return "utf-16le" if not high else "utf-16be" if not low else None


def _decode(path: Path, raw: bytes, offset: int) -> str:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        try:
            line = raw.decode("utf-8", "surrogatepass")  # the row is repaired
        except UnicodeDecodeError:
            raise InputError(_not_utf8(path, raw[error.start], offset, error.start)) from None
    return line.removeprefix(BYTE_ORDER_MARK) if offset == 0 else line


def _not_utf8(path: Path, byte: int, offset: int, start: int) -> str:
    with _open(path) as file:
        head = file.read(SNIFFED_BYTES)
    coding = _utf16(head, len(head)) or "latin1"  # UTF-16 of other scripts has few NULs
    return (
        f"{path}, line {1 + lines_before(path, offset)}, byte {offset + start}: 0x{byte:02x} is "
        f"not UTF-8. {_conversion(path, coding)}"
    )


def _conversion(path: Path, coding: str) -> str:
    return (
        f"Convert the file first, for example: iconv -f {coding} -t utf-8 {path.name} > "
        f"converted{path.suffix}"
    )
