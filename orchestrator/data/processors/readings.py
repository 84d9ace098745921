"""Tokenization for tasks: with offsets, in windows of long contexts, and as prompts with answers.

Tasks whose answers lie in the text (tags, extracted answers) need the characters and the word of
each token to decode; the arrays are those of ``TextProcessor.arrays`` and ``word_arrays``.

Windows are those of Devlin et al.'s ``run_squad``: a context that does not fit is cut every
``room - overlap`` tokens, so that neighbors share ``overlap`` tokens; windows end with the one that
reaches the end. Each is read with its whole question.

A prompt begins as the tokenizer begins a text ([CLS], <s>, or nothing) and stays open at its end.
An answer is read as running text goes on, with a blank before it, and ends with the tokenizer's end
token. Prompt and answer are tokenized apart, so that training and writing see the same tokens.

Shapes: B texts, S tokens of a text or window.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.spec import OVERLAP
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Encoding

    from orchestrator.data.processors.text import Arrays
    from orchestrator.data.processors.tokenizer_files import Side

MIN_ROOM = 2
"""Tokens of question and context below which nothing can be read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Places of the tokens of one input.

    Attributes:
        text: The text; of a pair the second one, in which answers are found.
        offsets: Characters of ``text`` that each token covers, int64 [S, 2]; (0, 0) for others.
        words: Number of the word that each token belongs to, int64 [S]; -1 for tokens that do not
            belong to ``text``.
        windows: first token of each window, of a text that is read in several.
    """

    text: str
    offsets: IntArray
    words: IntArray
    windows: tuple[int, ...] = (0,)


def read_texts(
    processor: TextProcessor,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    cut: "Side | None" = None,
) -> "tuple[Arrays, list[Reading]]":
    """Tokenize texts or pairs as ``TextProcessor.arrays`` does, with places; padded on the right.

    Words are those of the tokenizer's own pre-tokenization.
    """
    limit = processor.max_length if max_length is None else max_length
    special = processor.tokenizer.num_special_tokens_to_add(pairs is not None)
    room = max(limit - special, 0)
    first = processor.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    if pairs is None:
        framed = [processor.frame(encoding, room, cut=cut) for encoding in first]
        return processor.stack(framed, "right"), [
            reading_of(encoding, text, 0) for encoding, text in zip(framed, texts, strict=True)
        ]
    second = processor.tokenizer.encode_batch(list(pairs), add_special_tokens=False)
    framed = [processor.frame(a, room, b, cut) for a, b in zip(first, second, strict=True)]
    return processor.stack(framed, "right"), [
        reading_of(encoding, text, 1) for encoding, text in zip(framed, pairs, strict=True)
    ]


def read_words(
    processor: TextProcessor, rows: Sequence[Sequence[str]], max_length: int | None = None
) -> "tuple[Arrays, list[Reading]]":
    """Tokenize texts that are given as words, as ``TextProcessor.word_arrays`` does, with places.

    The text of a reading is the words with blanks between them, and a token covers its whole word.
    """
    arrays, starts = processor.word_arrays(rows, max_length)
    lengths = arrays["attention_mask"].sum(axis=1)
    readings = []
    for words, row, length in zip(rows, starts, lengths, strict=True):
        begins = [0, *accumulate(len(word) + 1 for word in words)]
        spans = np.asarray(
            [(begin, begin + len(word)) for begin, word in zip(begins, words, strict=False)],
            dtype=np.int64,
        ).reshape(-1, 2)
        numbers = row[:length]
        offsets = np.where(numbers[:, None] >= 0, spans[numbers], 0)
        readings.append(Reading(" ".join(words), offsets, numbers))
    return arrays, readings


def reading_of(encoding: "Encoding", text: str, sequence: int) -> Reading:
    """Return the places of one of the sequences of an input: 0, or 1 for the second text."""
    inside = np.asarray([found == sequence for found in encoding.sequence_ids], dtype=bool)
    words = [-1 if word is None else word for word in encoding.word_ids]
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return Reading(
        text,
        np.where(inside[:, None], offsets, 0),
        np.where(inside, np.asarray(words, dtype=np.int64), -1),
    )


Window = tuple["Encoding", Reading]
"""One sequence as the model reads it, and the places of its tokens."""


def read_windows(
    processor: TextProcessor,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int | None = None,
    overlap: int = OVERLAP,
) -> list[list[Window]]:
    """Tokenize questions with the windows of their contexts.

    A question may take half the room; what is longer is cut at its end.

    Args:
        processor: the tokenizer.
        questions: N questions.
        contexts: N contexts.
        max_length: limit of a window in tokens; None takes the processor's.
        overlap: tokens that neighbors share.

    Returns:
        The windows of each row, at least one. Words of a reading are those of the context.

    Raises:
        InputError: the limit leaves no room for question and context.
    """
    limit = processor.max_length if max_length is None else max_length
    room = limit - processor.tokenizer.num_special_tokens_to_add(True)
    if room < MIN_ROOM:
        raise InputError(
            f"max_length {limit} leaves no room for a question and a context. Raise it."
        )
    first = processor.tokenizer.encode_batch(list(questions), add_special_tokens=False)
    second = processor.tokenizer.encode_batch(list(contexts), add_special_tokens=False)
    found: list[list[Window]] = []
    for question, context, text in zip(first, second, contexts, strict=True):
        question.truncate(max(room // 2, room - len(context)))
        left = room - len(question)
        context.truncate(left, stride=min(overlap, left // 2))
        parts = [context, *context.overflowing]
        framed = [processor.tokenizer.post_process(question, part, True) for part in parts]
        found.append([(each, reading_of(each, text, 1)) for each in framed])
    return found


def joined(readings: Sequence[Reading]) -> Reading:
    """Return the windows of one context as one reading, their tokens one after the other."""
    lengths = [len(reading.words) for reading in readings]
    return Reading(
        readings[0].text,
        np.concatenate([reading.offsets for reading in readings]),
        np.concatenate([reading.words for reading in readings]),
        tuple(int(start) for start in np.cumsum([0, *lengths[:-1]])),
    )


def place_of(reading: Reading, start: int, end: int) -> tuple[int, int] | None:
    """Return the first and last token of the characters from start to end.

    None: the window does not have all of them.
    """
    inside = np.flatnonzero(reading.words >= 0)
    begins, ends = reading.offsets[inside].T
    overlaps = np.flatnonzero((begins < end) & (ends > start))
    if not len(overlaps) or begins[overlaps[0]] > start or ends[overlaps[-1]] < end:
        return None
    return int(inside[overlaps[0]]), int(inside[overlaps[-1]])


def end_id(processor: TextProcessor) -> int:
    """Return the token that ends a text; see `Roles.ending`."""
    return processor.roles.ending


WHISPER_START = "<|startoftranscript|>"
LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
"""Whisper's tokens of languages."""


def begin_ids(processor: TextProcessor) -> IntArray:
    """Return the tokens that a decoder of speech reads before it writes a text.

    They are the end token and the language that the tokenizer puts before a text (Speech2Text), or
    the prompt of Whisper.

    Raises:
        InputError: Whisper's tokenizer has languages, but its prompt names none.
    """
    tokenizer, special = processor.tokenizer, processor.settings.special
    around = tokenizer.encode("", add_special_tokens=True).ids
    end = end_id(processor)
    front = around[:-1] if around[-1:] == [end] else around
    if front[:1] != [tokenizer.token_to_id(WHISPER_START)]:
        plain = {special.get("cls"), special.get("bos")}
        return np.asarray([end, *(each for each in front if each not in plain)], dtype=np.int64)
    named = any(LANGUAGE.fullmatch(str(tokenizer.id_to_token(each))) for each in front)
    if not named and any(LANGUAGE.fullmatch(token) for token in tokenizer.get_vocab()):
        raise InputError(
            "this tokenizer does not say which language is transcribed. In transformers, call "
            'tokenizer.set_prefix_tokens(language="en", task="transcribe"), save it into the '
            "checkpoint, and import that."
        )
    return np.asarray(front, dtype=np.int64)


def prompt_ids(
    processor: TextProcessor, prompts: Sequence[str], limit: int | None = None
) -> list[IntArray]:
    """Return the tokens of prompts; of one that is too long, the last ``limit``."""
    texts = [prompt.rstrip() for prompt in prompts]
    encodings = processor.tokenizer.encode_batch(texts, add_special_tokens=True)
    found = []
    for encoding in encodings:
        ids = np.asarray(processor.ids_of(encoding), dtype=np.int64)
        ordinary = np.flatnonzero(np.asarray(encoding.special_tokens_mask) == 0)
        # What the tokenizer puts behind a text would end it.
        ids = ids[: ordinary[-1] + 1] if len(ordinary) else ids[:1]
        begin = int(ordinary[0]) if len(ordinary) else 0
        if limit is not None and len(ids) > limit:
            rest = max(limit - begin, 0)
            ids = np.concatenate([ids[:begin], ids[len(ids) - rest :]])[:limit]
        found.append(ids)
    return found


def answer_ids(
    processor: TextProcessor, answers: Sequence[str], limit: int | None = None
) -> list[IntArray]:
    """Return the tokens of answers with the end token; of one that is too long, the first."""
    end = end_id(processor)
    encoded = processor.target.encode([f" {answer.strip()}" for answer in answers])
    found = [np.asarray([*ids, end], dtype=np.int64) for ids in encoded]
    return found if limit is None else [ids[:limit] for ids in found]


def written_text(processor: TextProcessor, ids: Sequence[int]) -> str:
    """Return the text of written tokens, without blanks at both ends."""
    return processor.decode(ids).strip()
