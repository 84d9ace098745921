"""Items as token sequences: what a model reads of each, cut or refused where it is too long.

An item is one sequence for most tasks. A task of choices reads one per choice, a similarity task
one for each text of a pair, and question answering one per window of a long context. No torch.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.processors.readings import Reading, read_texts, read_windows, read_words
from orchestrator.data.processors.readings import joined as joined_windows
from orchestrator.data.rows.rows import WORD_BREAK, Rows
from orchestrator.data.sources.lines import REPAIRED, repaired
from orchestrator.errors import InputError
from orchestrator.inference.token_ids import Frame

if TYPE_CHECKING:
    from orchestrator.data.processors.templates import Template
    from orchestrator.data.processors.text import Arrays, TextProcessor
    from orchestrator.data.processors.tokenizer_files import Side
    from orchestrator.tasks.base import AnyTask


logger = logging.getLogger(__name__)

BLOCK_ROWS = 512
"""Items that are tokenized at once, in the order of their length."""


class Item(NamedTuple):
    """One input of a model.

    Attributes:
        text: The text, or the question.
        pair: Second text, or the context of the question; with choices, the question about
            ``text``.
        choices: Candidates of a multiple-choice question.
        words: The words of the text, where they are given; ``text`` is not read then.
        tokens: The tokens of the text, where they are given; ``text`` is not read then. Special
            tokens around it may be left out.
    """

    text: str
    pair: str | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def characters(self) -> int:
        """Number of characters, by which items are sorted before they are tokenized."""
        return (
            len(self.tokens) + len(self.text) + len(self.pair or "") + sum(map(len, self.choices))
        )

    def sequences(self, *, apart: bool) -> "list[Item]":
        """Return the parts that the model reads in a sequence each.

        Args:
            apart: Whether the texts of a pair are read apart.
        """
        if self.choices:
            question = "" if self.pair is None else f"{self.pair} "
            return [Item(self.text, f"{question}{choice}") for choice in self.choices]
        if apart and self.pair is not None:
            return [Item(self.text), Item(self.pair)]
        return [self]


def rows_of_texts(texts: Sequence[str], pairs: Sequence[str] | None = None) -> Rows:
    """Return rows without labels, for answering alone; half of a character becomes U+FFFD."""
    labels = np.zeros(len(texts), dtype=np.int64)
    counts: Counter[str] = Counter()
    parts = [
        [str(repaired({"": text}, counts)[""]) for text in each] for each in (texts, pairs or ())
    ]
    if counts:
        logger.warning("%d × %s", counts[REPAIRED], REPAIRED)
    return Rows(parts[0], None if pairs is None else parts[1], labels)


def items_of_rows(rows: Rows, task: "AnyTask | None") -> list[Item]:
    """Return what is asked about each row of texts.

    Rows with a tag per word hold words; texts that are only to be answered do not.
    """
    if task is not None and task.form().tagged and rows.labels.dtype == object:
        return [Item(text, words=tuple(text.split(WORD_BREAK))) for text in rows.texts]
    pairs: Sequence[str | None] = rows.pairs or [None] * len(rows)
    choices: Sequence[tuple[str, ...]] = rows.choices or [()] * len(rows)
    return [Item(*each) for each in zip(rows.texts, pairs, choices, strict=True)]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized sequence.

    Attributes:
        input_ids: [S] int64.
        token_type_ids: [S] int64, 1 in the second text of a pair.
        prompt: Leading tokens that the pooling of an embedding leaves out.
    """

    input_ids: IntArray
    token_type_ids: IntArray
    prompt: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item, ready for a model.

    Attributes:
        sequences: What the model reads.
        reading: Places of the tokens of the first sequence, or of all windows, if the task needs
            them.
    """

    sequences: tuple[Tokens, ...]
    reading: Reading | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sequences))


def sorted_blocks(
    items: Sequence[Item], encode: Callable[[Sequence[Item]], list[Encoded]]
) -> Iterator[tuple[IntArray, list[Encoded]]]:
    """Yield places of items and what they are read as, the shortest texts first."""
    order = np.argsort([item.characters for item in items], kind="stable")
    for start in range(0, len(order), BLOCK_ROWS):
        places = order[start : start + BLOCK_ROWS]
        yield places, encode([items[place] for place in places])


class Token(TypedDict):
    """One token of a text.

    Attributes:
        id: Index in the vocabulary.
        text: The token as the vocabulary has it.
        special: Whether the tokenizer added it.
        start: First character in the text; None for special tokens.
        stop: Character after the last one; None for special tokens.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TooLongError(InputError):
    """An item has more tokens than the model reads and may not be cut."""


_Sequence = tuple[Tokens, Reading | None]


class _Limit(NamedTuple):
    """Most tokens of a sequence, and where longer ones are cut."""

    tokens: int
    cut: "Side | None"


class TextReader:
    """The tokenizer of a package, limited to what its model reads.

    Args:
        processor: The tokenizer.
        max_length: Longest sequence, special tokens included.
    """

    def __init__(self, processor: "TextProcessor", max_length: int) -> None:
        self.processor, self.max_length = processor, max_length

    def encode(
        self,
        items: Sequence[Item],
        task: "AnyTask | None" = None,
        *,
        truncate: bool = True,
        cut: "Side | None" = None,
    ) -> list[Encoded]:
        """Tokenize.

        Args:
            items: What is asked.
            task: By which task; None: for embeddings.
            truncate: Cut what is too long, the longer text of a pair first.
            cut: At which end; None: where the tokenizer does.

        Raises:
            TooLongError: An item is too long and ``truncate`` is false.
        """
        if task is not None and task.reads_windows and items[0].pair is not None:
            return self._windows(items, task)
        if task is not None and task.template is not None:
            return self._filled(items, task.template, truncate=truncate)
        apart = task is not None and task.pairs_apart
        parts = [item.sequences(apart=apart) for item in items]
        # One token more than allowed is enough to see that a text is too long.
        limit = self.max_length if truncate else self.max_length + 1
        needs_reading = task is not None and task.needs_reading
        texts = [part for each in parts for part in each]
        found = iter(self._read(texts, _Limit(limit, cut), needs_reading))
        encoded = []
        for index, each in enumerate(parts):
            read = [next(found) for _ in each]
            self._require_short(index, [tokens for tokens, _ in read])
            encoded.append(Encoded(tuple(tokens for tokens, _ in read), read[0][1]))
        return encoded

    def tokens(self, text: str, *, special: bool) -> list[Token]:
        """Return the tokens of a text with their places in it."""
        encoding = self.processor.tokenizer.encode(text, add_special_tokens=special)
        return [
            {
                "id": identifier,
                "text": token,
                "special": bool(is_special),
                "start": None if is_special else start,
                "stop": None if is_special else stop,
            }
            for identifier, token, is_special, (start, stop) in zip(
                self.processor.ids_of(encoding),
                encoding.tokens,
                encoding.special_tokens_mask,
                encoding.offsets,
                strict=True,
            )
        ]

    def _require_short(self, index: int, sequences: Sequence[Tokens]) -> None:
        if any(len(tokens) > self.max_length for tokens in sequences):
            raise TooLongError(
                f"Input {index} has more than the {self.max_length} tokens the model reads. "
                "Shorten it or send `truncate: true`."
            )

    def _filled(
        self, items: Sequence[Item], template: "Template", *, truncate: bool
    ) -> list[Encoded]:
        """Tokenize texts in a template with a mask."""
        limit = self.max_length if truncate else self.max_length + 1
        has_pairs = any(item.pair is not None for item in items)
        pairs = [item.pair or "" for item in items] if has_pairs else None
        rows = template.tokens(self.processor, [item.text for item in items], pairs, limit)
        encoded = [Encoded((Tokens(ids, np.zeros_like(ids)),)) for ids in rows]
        for index, each in enumerate(encoded):
            self._require_short(index, each.sequences)
        return encoded

    def _windows(self, items: Sequence[Item], task: "AnyTask") -> list[Encoded]:
        """Tokenize questions with the windows of their contexts; nothing is too long."""
        found = read_windows(
            self.processor,
            [item.text for item in items],
            [item.pair or "" for item in items],
            self.max_length,
            task.config.overlap_tokens,
        )
        segments = self.processor.settings.segments
        encoded = []
        for windows in found:
            tokens = [
                Tokens(
                    np.asarray(self.processor.ids_of(each)),
                    np.asarray(each.type_ids) * int(segments),
                )
                for each, _ in windows
            ]
            encoded.append(Encoded(tuple(tokens), joined_windows([read for _, read in windows])))
        return encoded

    @cached_property
    def frame(self) -> Frame:
        """Special tokens that the tokenizer puts around a text."""
        return Frame.of(self.processor)

    def _read(
        self, parts: Sequence[Item], limit: "_Limit", needs_reading: bool
    ) -> Sequence[_Sequence]:
        """Tokenize single texts together, pairs together, and given words or tokens together."""
        forms = [(part.pair is not None, bool(part.words), bool(part.tokens)) for part in parts]
        if len(set(forms)) == 1:
            return list(self._read_alike(parts, limit, needs_reading))
        found: dict[int, _Sequence] = {}
        for form in set(forms):
            places = [place for place, other in enumerate(forms) if other == form]
            alike = self._read_alike([parts[place] for place in places], limit, needs_reading)
            found |= zip(places, alike, strict=True)
        return [found[place] for place in range(len(parts))]

    def _read_alike(
        self, parts: Sequence[Item], limit: "_Limit", needs_reading: bool
    ) -> Iterator[_Sequence]:
        """Tokenize parts of one form."""
        if parts[0].tokens:
            for part in parts:
                ids = np.asarray(self.frame.around(part.tokens, *limit), dtype=np.int64)
                yield Tokens(ids, np.zeros_like(ids)), None
            return
        readings: Sequence[Reading | None] = [None] * len(parts)
        arrays: Arrays
        if parts[0].words:
            arrays, readings = read_words(
                self.processor, [part.words for part in parts], limit.tokens
            )
        else:
            texts = [part.text for part in parts]
            pairs = None if parts[0].pair is None else [part.pair or "" for part in parts]
            if needs_reading:
                arrays, readings = read_texts(self.processor, texts, pairs, *limit)
            else:
                arrays = self.processor.arrays(texts, pairs, limit.tokens, "right", limit.cut)
        ids, types = arrays["input_ids"], arrays["token_type_ids"]
        lengths = arrays["attention_mask"].sum(axis=1).tolist()
        for row, (length, reading) in enumerate(zip(lengths, readings, strict=True)):
            yield Tokens(ids[row, :length], types[row, :length]), reading


def joined(encoded: Sequence[Encoded], outputs: Sequence[AnyArray]) -> list[AnyArray]:
    """Return one output per item from one per sequence; of several, stacked in their order.

    Outputs of windows, which are per token, follow one another.
    """
    each = iter(outputs)
    found = []
    for item in encoded:
        parts = [next(each) for _ in item.sequences]
        windows = item.reading is not None and len(item.reading.windows) > 1
        joint = np.concatenate if windows else np.stack
        found.append(parts[0] if len(parts) == 1 else joint(parts))
    return found
