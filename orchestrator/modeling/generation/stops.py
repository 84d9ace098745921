"""Strings that end a sequence.

They are looked for in the decoded text, since one string has many token sequences. The library's
``StopStringCriteria`` needs its own tokenizer class; packages have the tokenizer alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decode = Callable[[Sequence[int]], str]
"""New tokens of a row → text."""


class Stops:
    """Finds rows whose new text holds a stop string.

    Args:
        strings: Any of them ends a row.
        decode: Tokens to text; not needed without strings.
    """

    def __init__(self, strings: Sequence[str], decode: Decode | None) -> None:
        self._strings, self._decode = tuple(strings), decode

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return which rows of new tokens [N, T] hold one, bool [N]."""
        found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if self._decode is None or not self._strings:
            return found
        for row, ids in enumerate(tokens.tolist()):
            text = self._decode(ids)
            found[row] = any(string in text for string in self._strings)
        return found
