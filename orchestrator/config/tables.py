"""Text tables for terminals and logs."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = (), align: str = "") -> str:
    """Return rows as columns that are two spaces apart and as wide as their widest cell.

    Args:
        rows: Cells; each becomes its ``str``, control characters become spaces.
        header: Column names; empty: no header line.
        align: ``<`` or ``>`` per column; missing ones are ``<``.

    Returns:
        One line per row, without spaces at the ends of lines; empty without rows.
    """
    if not rows:
        return ""
    lines = [
        [printable(str(cell)) for cell in line] for line in ([header] if header else []) + [*rows]
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = align.ljust(len(widths), "<")
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """Return text without the control characters that could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
