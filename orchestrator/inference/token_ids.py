"""Texts that come as token ids of the package's vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.data.processors.tokenizer_files import Side


@dataclass(frozen=True, slots=True)
class Frame:
    """Special tokens that a tokenizer puts around a text.

    Attributes:
        begin: Special tokens before it.
        end: Special tokens after it.
        side: Where a text that is too long is cut.
        vocab_size: Number of token ids.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    side: "Side"
    vocab_size: int

    @classmethod
    def of(cls, processor: "TextProcessor") -> "Frame":
        """Return that of a tokenizer."""
        encoding = processor.tokenizer.encode("a", add_special_tokens=True)
        ids, special = processor.ids_of(encoding), encoding.special_tokens_mask
        ordinary = [place for place, each in enumerate(special) if not each]
        begin, end = tuple(ids[: ordinary[0]]), tuple(ids[ordinary[-1] + 1 :])
        return cls(begin, end, processor.settings.truncation_side, processor.vocab_size)

    def bare(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return tokens without the special ones around them, if they have them."""
        found, first, last = tuple(tokens), len(self.begin), len(self.end)
        framed = len(found) >= first + last and found[:first] == self.begin
        if framed and found[len(found) - last :] == self.end:
            return found[first : len(found) - last]
        return found

    def around(self, tokens: Sequence[int], limit: int, cut: "Side | None") -> list[int]:
        """Return tokens with the special ones around them, cut to ``limit``."""
        bare = self.bare(tokens)
        room = min(max(limit - len(self.begin) - len(self.end), 0), len(bare))
        left = (cut or self.side) == "left"
        kept = bare[len(bare) - room :] if left else bare[:room]
        return [*self.begin, *kept, *self.end]
