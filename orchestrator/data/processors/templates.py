"""Templates of masked-word (cloze) classification: a text with a blank that the model fills.

``It was {mask}. {text}`` has one blank and one text, ``{text} {mask}, {text_b}`` two. The parts are
tokenized apart, so that a word of the text never joins one of the template; a blank before a part
belongs to that part, and one before the mask is left out, as the masks of byte-level tokenizers
read it. Of texts that are too long the longer one is cut, the template never.

A template of Schick & Schütze 2021 (PET); TencentPretrain's ``run_classifier_prompt`` has the same
with one text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.data.processors.text import TextProcessor

MASK, TEXT, PAIR = "{mask}", "{text}", "{text_b}"
SLOT = re.compile(r"(\{[^{}]*\})")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with slots.

    Attributes:
        source: The text as it is written in configs.
    """

    source: str

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with it."""
        slots = SLOT.findall(self.source)
        for slot in slots:
            if slot not in (MASK, TEXT, PAIR):
                yield f"{slot} is not a slot. Slots are {MASK}, {TEXT} and {PAIR}."
        for slot in (MASK, TEXT):
            if slots.count(slot) != 1:
                yield f"has {slots.count(slot)} × {slot}, and needs one."
        if slots.count(PAIR) > 1:
            yield f"has {slots.count(PAIR)} × {PAIR}, and may have one."

    @property
    def reads_pair(self) -> bool:
        """Whether there is a second text."""
        return PAIR in self.source

    def tokens(
        self,
        processor: "TextProcessor",
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        max_length: int,
    ) -> list[IntArray]:
        """Return the tokens of filled templates, special ones around them.

        Args:
            processor: The tokenizer; it has a mask token.
            texts: B texts.
            pairs: B second texts, if the template has a slot for them.
            max_length: Limit in tokens, special ones included.

        Raises:
            InputError: Texts and slots do not fit, or the template alone is too long.
        """
        if (pairs is not None) != self.reads_pair:
            has = "one text" if pairs is None else "two texts"
            raise InputError(
                f"template {self.source!r} {'reads' if self.reads_pair else 'lacks'} {PAIR}, and "
                f"the rows have {has} each. Change task.template or data.pair_column."
            )
        begin, end = _around(processor)
        parts = list(_parts(self.source))
        filled: dict[str, list[list[int]]] = {}
        for slot, blank in parts:
            if slot in (TEXT, PAIR):
                rows = texts if slot == TEXT else pairs or ()
                filled[slot] = processor.encode([blank + row for row in rows])
        mask = processor.settings.special["mask"]
        fixed = {
            slot: [mask] if slot == MASK else processor.encode([slot])[0]
            for slot, _ in parts
            if slot not in filled
        }
        used = len(begin) + len(end) + sum(len(fixed.get(slot, ())) for slot, _ in parts)
        if max_length - used < len(filled):
            raise InputError(
                f"template {self.source!r} has {used} tokens, and max_length is {max_length}: no "
                "room is left for a text."
            )
        return [
            _joined(begin, end, [(fixed | rows)[slot] for slot, _ in parts])
            for rows in _cut(processor, filled, max_length - used)
        ]


def _parts(source: str) -> Iterator[tuple[str, str]]:
    """Yield slots and the texts between them, and the blank that belongs before each slot."""
    blank = ""
    for part in SLOT.split(source):
        if SLOT.fullmatch(part):
            yield part, blank
            blank = ""
        elif part:
            own = part.rstrip()
            blank = " " if own != part else ""
            if own:
                yield own, ""


def _around(processor: "TextProcessor") -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and behind a text."""
    framed = processor.tokenizer.encode("a", add_special_tokens=True)
    ordinary = np.flatnonzero(np.asarray(framed.special_tokens_mask) == 0)
    return framed.ids[: ordinary[0]], framed.ids[ordinary[-1] + 1 :]


def _cut(
    processor: "TextProcessor", filled: dict[str, list[list[int]]], room: int
) -> Iterator[dict[str, list[int]]]:
    """Yield the tokens of each row's texts, cut to ``room`` together."""
    from orchestrator.data.processors.text import cut_pair

    left = processor.settings.truncation_side == "left"
    names = list(filled)
    for row in zip(*filled.values(), strict=True):
        sizes = [len(ids) for ids in row]
        sizes = (
            [min(sizes[0], room)] if len(sizes) == 1 else list(cut_pair(sizes[0], sizes[1], room))
        )
        yield {
            name: (ids[len(ids) - size :] if left else ids[:size])
            for name, ids, size in zip(names, row, sizes, strict=True)
        }


def _joined(begin: list[int], end: list[int], parts: Sequence[list[int]]) -> IntArray:
    return np.asarray([*begin, *(i for part in parts for i in part), *end], dtype=np.int64)
