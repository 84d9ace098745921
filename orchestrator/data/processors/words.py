"""Words of token sequences, where a segmenter finds them: the text is put together from its tokens.

Tokens become bytes, because those of byte-level BPE are parts of characters; a token begins a word
if the segmenter begins one at the token's first letter. Special tokens are borders. Words depend on
the tokens alone, so prepared corpora need not know the segmenter, and a worker that resumes finds
the same; they are remembered, because a segmenter takes longer than masking does.

Home-made because segmenters know texts, and no library brings their words to tokens.

Shapes: B batch, S length.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from tokenizers import pre_tokenizers

from orchestrator.arrays import BoolArray, IntArray
from orchestrator.data.processors.segmenters import Segmenter
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.tokenizer_files import CONTINUATION, SPACE

REMEMBERED = 1 << 18
"""Sequences whose words are remembered; each takes a bit per token."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token of one byte, as SentencePiece writes it."""
IDEOGRAPHS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Chinese characters; WordPiece of BERT puts no blanks between them."""


class WordFinder:
    """Finds the words in sequences of a tokenizer."""

    def __init__(self, processor: TextProcessor, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._pieces = token_bytes(processor)
        self._known: dict[bytes, npt.NDArray[np.uint8]] = {}

    def __call__(self, ids: IntArray) -> BoolArray:
        """Return which tokens begin a word: bool [B, S]."""
        return np.stack([self._row(row) for row in ids])

    def _row(self, ids: IntArray) -> BoolArray:
        key = blake2b(ids.tobytes(), digest_size=16).digest()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[key] = np.packbits(self._find(ids))
        return np.unpackbits(found, count=len(ids)).astype(bool)

    def _find(self, ids: IntArray) -> BoolArray:
        pieces = [self._pieces[number] for number in ids]
        # A byte that is not a whole character counts as a character: a block may begin in one.
        text = b"".join(pieces).decode("utf-8", "surrogateescape")
        sizes = [len(letter.encode("utf-8", "surrogateescape")) for letter in text]
        begins = np.concatenate([[0], np.cumsum(sizes)])[self._segmenter(text)]
        blanks = [len(piece) - len(piece.lstrip()) for piece in pieces]
        places = np.cumsum([0, *map(len, pieces[:-1])]) + blanks
        found = np.isin(places, begins)
        found[0] = True
        return found


def token_bytes(processor: TextProcessor) -> list[bytes]:
    """Return the text of each token of a vocabulary; special tokens are a blank."""
    tokenizer, kind = processor.tokenizer, processor.kind
    tokens = [tokenizer.id_to_token(number) or "" for number in range(processor.vocab_size)]
    special = {n for n, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    letters = byte_letters()
    words = "".join(token for number, token in enumerate(tokens) if number not in special)
    if kind == "bpe" and set(words) <= set(letters):
        found = [bytes(letters.get(letter, 32) for letter in token) for token in tokens]
    elif kind == "wordpiece":
        found = [_wordpiece(token) for token in tokens]
    else:
        found = [_with_blanks(token) for token in tokens]
    return [b" " if number in special else piece for number, piece in enumerate(found)]


def _wordpiece(token: str) -> bytes:
    """Return a piece; one that is not a Chinese character and continues none follows a blank."""
    if token.startswith(CONTINUATION) or IDEOGRAPHS.match(token):
        return token.removeprefix(CONTINUATION).encode()
    return f" {token}".encode()


def _with_blanks(token: str) -> bytes:
    byte = BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def byte_letters() -> dict[str, int]:
    """Return the byte that each letter of byte-level BPE stands for (Radford et al. 2019).

    Printable bytes stand for themselves; the others follow from U+0100 on.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    found = {chr(byte): byte for byte in plain}
    found |= {chr(256 + place): byte for place, byte in enumerate(others)}
    assert found.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    return found


def ideograph_share(texts: Iterable[str]) -> float:
    """Return the share of Chinese characters among the characters of texts, blanks left out."""
    letters = "".join("".join(text.split()) for text in texts)
    return len(IDEOGRAPHS.findall(letters)) / max(len(letters), 1)
