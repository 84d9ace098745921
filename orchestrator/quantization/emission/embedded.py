"""Names of an embedded input, on its way to the encoder.

Legend: B batch, S length, D width.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Embedded:
    """Names of an embedded input.

    Attributes:
        hidden: Vectors, [B, S, D].
        mask: 1 at real positions, int32 [B, S].
        padded: Whether a position can be padding.
    """

    hidden: str
    mask: str
    padded: bool = True
