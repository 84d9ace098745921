"""Completion of a published tokenizer by ``tokenizer.json``, checked against transformers' own.

Folders of older families have a vocabulary (``vocab.txt``; ``vocab.json`` with ``merges.txt``; a
SentencePiece model) that a class of transformers reads. What it makes of that is written as
``tokenizer.json``; of the classes that are Python code, the four that families here come with are
translated (`letters`, `pieces`), and the translation is compared with the original on `TEXTS` and
on the vocabulary's own tokens.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.tokenization.letters import letters_tokenizer
from orchestrator.modeling.huggingface.tokenization.pieces import (
    Converted,
    pieces_tokenizer,
    without_punctuation,
)

TOKENIZER = "tokenizer.json"
VOCABULARIES = (
    "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "spm.model", "source.spm",
)  # fmt: skip
"""Files that a tokenizer can be made of."""
TRANSLATION = "translation.json"
"""Beside a translated ``tokenizer.json``, which is not exported: the ids that it cannot say."""
TARGET = "target_"
"""Beginning of the names of the tokenizer of what a model writes, if that is another (Marian)."""
TEXTS = (
    "", " ", "Hello world", "HELLO WORLD, it's 12,345.67!", "  two  spaces ", "a\nb\tc",
    "Größe naïve café Straße", "今天天气很好。", "한국어 텍스트", "😀 party 🎉🎉", "x▁y ▁",
    "don't 'quote' ``x''", "ﬁ ① Ｆｕｌｌ", "\u200bzero\u00a0width", "a|b || c", "e\u0301 e",
    "Привет, мир", "a" * 40, ">>xx<< hello", ">>a\nb<<c", "a >>b<<", ">> a",
)  # fmt: skip
CHUNK = 20
"""Tokens of the vocabulary in a text that is made of them."""
CHUNKS = 200

Sides = dict[str, Converted]
"""Beginning of the names of files → tokenizer."""


def complete_tokenizer(folder: Path, target: Path, rows: int, pad: int | None = None) -> bool:
    """Write ``tokenizer.json`` for a model that has only a vocabulary; return whether.

    Args:
        folder: The checkpoint.
        target: The package's folder.
        rows: Rows of the word table, or outputs of a model of speech.
        pad: The model's padding token, the blank of CTC.

    Raises:
        InputError: The vocabulary cannot be read, or not be expressed exactly.
    """
    there = [name for name in VOCABULARIES if (folder / name).is_file()]
    if (target / TOKENIZER).is_file() or not there:
        return False
    from transformers import AutoTokenizer

    try:
        opened: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        if hasattr(opened, "backend_tokenizer"):
            opened.backend_tokenizer.save(str(target / TOKENIZER))
            return True
        sides = _translated(opened, folder, rows)
        _require_same(opened, sides, pad)
        for side, converted in sides.items():
            _write(converted, target, side)
    except Exception as error:  # each tokenizer class has its own
        raise InputError(
            f"{folder}: no tokenizer can be made of {', '.join(there)}: {error} Add tokenizer.json."
        ) from error
    return True


def _translated(opened: Any, folder: Path, rows: int) -> Sides:
    name = type(opened).__name__
    if name not in TRANSLATIONS:
        raise InputError(f"{name} is Python code; supported are {', '.join(TRANSLATIONS)}.")
    return TRANSLATIONS[name](opened, folder, rows)


def _letters(opened: Any, folder: Path, rows: int) -> Sides:
    del folder
    return {"": Converted(letters_tokenizer(opened, rows), {})}


def _speech2text(opened: Any, folder: Path, rows: int) -> Sides:
    del rows
    return {"": pieces_tokenizer(folder / "sentencepiece.bpe.model", opened.encoder, opened)}


def _siglip(opened: Any, folder: Path, rows: int) -> Sides:
    del rows
    front = without_punctuation(opened)
    return {"": pieces_tokenizer(folder / "spiece.model", opened.get_vocab(), opened, front)}


def _marian(opened: Any, folder: Path, rows: int) -> Sides:
    del rows
    if opened.separate_vocabs:
        raise InputError("the two sides have a vocabulary each (separate_vocabs).")
    source, target = folder / "source.spm", folder / "target.spm"
    sides = {"": pieces_tokenizer(source, opened.encoder, opened, coded=True)}
    if source.read_bytes() != target.read_bytes():
        sides[TARGET] = pieces_tokenizer(target, opened.encoder, opened, coded=True)
    return sides


TRANSLATIONS: Mapping[str, Callable[[Any, Path, int], Sides]] = {
    "Wav2Vec2CTCTokenizer": _letters,
    "Speech2TextTokenizer": _speech2text,
    "SiglipTokenizer": _siglip,
    "MarianTokenizer": _marian,
}
"""Class of transformers that is Python code → its translation."""


def _write(converted: Converted, folder: Path, side: str) -> None:
    converted.tokenizer.save(str(folder / f"{side}{TOKENIZER}"))
    ids = {"ids": converted.exceptions}
    text = json.dumps(ids, ensure_ascii=False, indent=1, sort_keys=True)
    (folder / f"{side}{TRANSLATION}").write_text(text + "\n", encoding="utf-8")


def _require_same(opened: Any, sides: Sides, pad: int | None) -> None:
    """Compare a translation with the original.

    Raises:
        InputError: A text has other ids, ids have another text, or the blank is another token.
    """
    if pad is not None and opened.pad_token_id != pad:
        raise InputError(
            f"{opened.pad_token!r}, its padding token, is {opened.pad_token_id}; "
            f"the model's is {pad}."
        )
    texts = [*TEXTS, *_spelled(opened)]
    texts = [text for text in texts if not any(t in text for t in opened.all_special_tokens)]
    for side, converted in sides.items():
        key = "text_target" if side else "text"
        tokenizer = Tokenizer.from_str(converted.tokenizer.to_str())
        tokenizer.encode_special_tokens = True
        for text in texts:
            theirs = opened(**{key: text}).input_ids
            encoding = tokenizer.encode(text)
            pairs = zip(encoding.tokens, encoding.ids, strict=True)
            ours = [converted.exceptions.get(token, number) for token, number in pairs]
            if sorted(ours) != sorted(theirs):  # another order is another cut of the same score
                raise InputError(f"{text!r} becomes {ours}, not {theirs} as in transformers.")


def _spelled(opened: Any) -> Iterator[str]:
    """Yield texts that are made of the tokens of a vocabulary."""
    vocabulary = opened.get_vocab()
    tokens = [t for t in sorted(vocabulary, key=vocabulary.__getitem__) if len(t) < CHUNK]
    tokens = [t for t in tokens if t not in opened.all_special_tokens]
    step = max(len(tokens) // CHUNKS, 1)
    for start in range(step):
        yield from _joined(tokens[start::step])


def _joined(tokens: Sequence[str]) -> Iterator[str]:
    for first in range(0, len(tokens), CHUNK):
        yield "".join(tokens[first : first + CHUNK]).replace("▁", " ").replace("|", " ")
        yield " ".join(tokens[first : first + CHUNK : 3]).replace("▁", "")


def copy_translation(folder: Path, target: Path) -> None:
    """Copy what a translated tokenizer has in a package beside the published files."""
    for name in (TRANSLATION, f"{TARGET}{TOKENIZER}", f"{TARGET}{TRANSLATION}"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def require_rows(folder: Path, rows: int) -> None:
    """Refuse a tokenizer with ids that the word table has no rows for.

    Args:
        folder: A package's files, with ``tokenizer.json`` if it has a tokenizer.
        rows: Rows of the word table.

    Raises:
        InputError: It has; the first such token is named.
    """
    path, translation = folder / TOKENIZER, folder / TRANSLATION
    if not rows or not path.is_file():
        return
    ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    if translation.is_file():
        known = json.loads(translation.read_text(encoding="utf-8"))["ids"]
        ids = {token: known.get(token, number) for token, number in ids.items()}
    beyond = sorted((number, token) for token, number in ids.items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        raise InputError(
            f"tokenizer.json has {len(beyond)} tokens that the word table has no rows for (it has "
            f"{rows}; the first token is {token!r}, id {number}): texts with them would fail. Call "
            "resize_token_embeddings in transformers and save again, or remove these tokens."
        )
