"""Tokenizers of letters, as CTC models of speech use them (wav2vec 2.0, HuBERT).

transformers' ``Wav2Vec2CTCTokenizer`` is Python code. The same in ``tokenizer.json``: a BPE model
without merges, which cuts a text into characters; a delimiter in place of blanks; and a decoder
that puts blanks back. Repetitions are removed before, where the blank of CTC is known. Only the
padding token, which is that blank, is special: transformers, too, writes the others out.

Uppercase and lowercase are those of Python, one replacement per character. The one character whose
lowercase depends on its place is refused (Greek sigma).
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
)

from orchestrator.errors import InputError

ENDS = Regex(r"\A\s+|\s+\z")
"""Blanks at either end of a text."""
CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""Replacements of ``clean_up_tokenization_spaces``, in their order."""
PLACED = "Σ"
"""Its lowercase differs at the end of a word."""


def letters_tokenizer(opened: Any, rows: int) -> Tokenizer:
    """Return the tokenizer of an opened ``Wav2Vec2CTCTokenizer``.

    Args:
        opened: The tokenizer of transformers.
        rows: Outputs of the model. Special tokens beyond are left out: transformers numbers those
            that ``vocab.json`` lacks after its last one, where such a model has no output.

    Raises:
        InputError: It cannot be expressed.
    """
    vocabulary = {token: number for token, number in opened.get_vocab().items() if number < rows}
    unknown, pad = opened.unk_token, opened.pad_token
    _require(vocabulary, unknown, pad)
    delimiter, blank = opened.word_delimiter_token, opened.replace_word_delimiter_char
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    upper = uppercase(vocabulary) if opened.do_lower_case else ()
    changes = [normalizers.Replace(old, new) for old, new in (*upper, (" ", delimiter))]
    tokenizer.normalizer = normalizers.Sequence(changes)
    back = [decoders.Replace(Regex(rf"\A{_escaped(delimiter)}\z"), blank), decoders.Fuse()]
    back.append(decoders.Replace(ENDS, ""))
    if opened.do_lower_case:
        back += [decoders.Replace(old, new) for old, new in lowercase(vocabulary)]
    if opened.clean_up_tokenization_spaces:
        back += [decoders.Replace(old, new) for old, new in CLEANED]
    tokenizer.decoder = decoders.Sequence(back)
    tokenizer.add_special_tokens([AddedToken(pad, normalized=False, special=True)])
    own = [
        token for token in vocabulary if len(token) > 1 and token not in opened.all_special_tokens
    ]
    tokenizer.add_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in own])
    return tokenizer


def _require(vocabulary: Mapping[str, int], unknown: str | None, pad: str | None) -> None:
    for name, token in (("unk_token", unknown), ("pad_token", pad)):
        if token not in vocabulary:
            raise InputError(f"its {name}, {token!r}, is not in vocab.json. Add it.")


def uppercase(vocabulary: Iterable[str]) -> list[tuple[str, str]]:
    """Return the characters whose uppercase a vocabulary has, and those with a longer one."""
    known = {token for token in vocabulary if len(token) == 1}
    pairs = ((chr(code), chr(code).upper()) for code in range(sys.maxunicode + 1))
    return [(c, up) for c, up in pairs if c != up and (len(up) > 1 or up in known or c in known)]


def lowercase(vocabulary: Iterable[str]) -> list[tuple[str, str]]:
    """Return the characters of a vocabulary's tokens that have a lowercase.

    Raises:
        InputError: It has one whose lowercase depends on its place.
    """
    characters = sorted({character for token in vocabulary for character in token})
    if PLACED in characters:
        raise InputError(
            f"it writes in lowercase (do_lower_case), and that of {PLACED!r} depends on its place."
        )
    return [(each, each.lower()) for each in characters if each != each.lower()]


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)
