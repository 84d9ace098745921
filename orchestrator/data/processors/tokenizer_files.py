"""Files of a tokenizer: the settings and special tokens that lie beside ``tokenizer.json``.

Tokenizers of Hugging Face name special tokens, truncation and padding sides and limits in
``tokenizer_config.json`` and ``special_tokens_map.json``; where they do not, the ids in the config
of their model, and then the names that everybody uses decide.

transformers opens some families by other files than we read (``vocab.json`` of wav2vec 2.0,
``source.spm`` of Marian): they stay with every package that has the tokenizer, byte for byte.
``translation.json`` says that ``tokenizer.json`` was made of them by the import, and which ids it
cannot say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenizers import Encoding, Tokenizer

from orchestrator.data.spec import SPECIAL_TOKENS
from orchestrator.errors import InputError

Kind = Literal["wordpiece", "bpe", "unigram"]

CONTINUATION = "##"  # WordPiece
SPACE = "▁"  # Unigram
BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č")  # byte-level BPE: space, newline, tab, carriage return
SENTINEL = "<extra_id_{}>"

TOKENIZER, SETTINGS, HUGGING_FACE = (
    "tokenizer.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
SPECIAL_MAP = "special_tokens_map.json"
MODEL_CONFIGS = ("huggingface.json", "config.json")
"""Files with the config of a model of theirs: in a package, in a folder of theirs."""
OUR_MODEL_TYPE = "orchestrator"
"""``model_type`` of our own configs, whose ids say nothing of the tokenizer."""
SENTENCE_MASK = "sentence_mask"
SENTENCE_MASK_KEY = "mask_token_sent"
"""Role of the token that hides a sentence (PEGASUS), and its key in their files."""
DEFAULT_MAX_LENGTH = 512
UNLIMITED = 1_000_000
"""Larger values of ``model_max_length`` mean "no limit"."""

Side = Literal["left", "right"]
KINDS: dict[str, Kind] = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram"}
"""Name of a model in ``tokenizer.json`` → ours."""
USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("[BOS]", "<s>", "<|endoftext|>"),
    "eos": ("[EOS]", "</s>", "<|endoftext|>"),
}
"""Role of a special token → its usual names."""
TOKEN_KEYS = (*(f"{role}_token" for role in USUAL), SENTENCE_MASK_KEY)
"""Keys of special tokens in their files."""


def sentinel_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of ``<extra_id_0>``, ``<extra_id_1>``, ... that a tokenizer has."""
    found: list[int] = []
    while (number := tokenizer.token_to_id(SENTINEL.format(len(found)))) is not None:
        found.append(int(number))
    return found


def continues_word(token: str, kind: Kind) -> bool:
    """Return whether a token continues the word of the token before it."""
    if token in SPECIAL_TOKENS:
        return False
    if kind == "wordpiece":
        return token.startswith(CONTINUATION)
    return not token.startswith((SPACE, *BYTE_SPACES))


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """Settings of a tokenizer that its file does not hold.

    Attributes:
        kind: Wordpiece, bpe or unigram.
        max_length: Limit in tokens, special ones included.
        special: Role (``pad``, ``cls``, ...) → id, for roles that the tokenizer has.
        padding_side: Where padding goes.
        truncation_side: Where a text that is too long loses tokens.
        segments: Whether the second text of a pair has type 1.
        config: Content of ``tokenizer_config.json`` of a tokenizer that was read.
    """

    kind: Kind
    max_length: int = DEFAULT_MAX_LENGTH
    special: Mapping[str, int] = field(
        default_factory=lambda: {
            token[1:-1].lower(): number for number, token in enumerate(SPECIAL_TOKENS)
        }
    )
    padding_side: Side = "right"
    truncation_side: Side = "right"
    segments: bool = True
    config: Mapping[str, Any] | None = None

    @property
    def pad_id(self) -> int:
        """Id that fills padding; without a token for padding, any id will do."""
        return self.special.get("pad", self.special.get("eos", 0))


def read_settings(folder: Path, tokenizer: Tokenizer) -> TokenizerSettings:
    """Read the settings of a tokenizer.

    Raises:
        InputError: It is of a kind that is not supported, or a value is of the wrong kind.
    """
    model = type(tokenizer.model).__name__
    if model not in KINDS:
        raise InputError(f"its model is {model}; supported are {', '.join(KINDS)}")
    own = _read(folder / SETTINGS)
    own = own if own.get("processor_type") == "text" else {}
    theirs = _read(folder / HUGGING_FACE)
    named = {**_read(folder / SPECIAL_MAP), **theirs}
    named = {**_of_model(folder, tokenizer), **{k: v for k, v in named.items() if v is not None}}
    found = {key: named[key] for key in TOKEN_KEYS if key in named and key not in theirs}
    inputs = theirs.get("model_input_names")
    return TokenizerSettings(
        kind=own.get("kind", KINDS[model]),
        max_length=int(own.get("max_length", _limit(theirs))),
        special=special_ids(tokenizer, named),
        padding_side=_side(theirs, "padding_side"),
        truncation_side=_side(theirs, "truncation_side"),
        segments=inputs is None or "token_type_ids" in inputs,
        config={**theirs, **found} or None,
    )


def _of_model(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the tokens with a role by the ids in their model's config: ``pad_token``, ..."""
    added = tokenizer.get_added_tokens_decoder()
    found: dict[str, str] = {}
    for name in MODEL_CONFIGS:
        values = _read(folder / name)
        values = values.get("config", values)
        if values.get("model_type") in (None, OUR_MODEL_TYPE):
            continue
        for role in USUAL:
            token = added.get(values.get(f"{role}_token_id"))
            if token is not None and token.special:
                found.setdefault(f"{role}_token", str(token.content))
    return found


def special_ids(tokenizer: Tokenizer, named: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of each special token, by role.

    Args:
        tokenizer: The tokenizer.
        named: ``pad_token``, ``cls_token``, ... as in Hugging Face's files: a text, or a mapping
            with ``content``.
    """
    found: dict[str, int] = {}
    sought = {f"{role}_token": (role, usual) for role, usual in USUAL.items()}
    sought[SENTENCE_MASK_KEY] = (SENTENCE_MASK, ())
    for key, (role, usual) in sought.items():
        given = named.get(key)
        given = given.get("content") if isinstance(given, Mapping) else given
        for token in (given,) if given else usual:
            number = tokenizer.token_to_id(token) if isinstance(token, str) else None
            if number is not None:
                found[role] = int(number)
                break
    return found


def _limit(theirs: Mapping[str, Any]) -> int:
    limit = theirs.get("model_max_length")
    known = isinstance(limit, (int, float)) and 0 < limit < UNLIMITED
    return int(limit) if known and limit is not None else DEFAULT_MAX_LENGTH


def _side(theirs: Mapping[str, Any], key: str) -> Side:
    side = theirs.get(key, "right")
    if side not in ("left", "right"):
        raise InputError(f"{key} is {side!r}; allowed are left and right")
    return "left" if side == "left" else "right"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path.name} is not a mapping")
    return content


TRANSLATION = "translation.json"
TARGET = "target_"
"""Beginning of the names of the tokenizer of what a model writes, if that is another (Marian)."""
TARGET_TOKENIZER = f"{TARGET}tokenizer.json"
FILES = (
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm",
    "spm.model", "normalizer.json", "chat_template.jinja",
    TRANSLATION, TARGET_TOKENIZER, f"{TARGET}{TRANSLATION}",
)  # fmt: skip
"""Files of transformers' tokenizers, then those of their translation."""


@dataclass(frozen=True, slots=True)
class Published:
    """The files beside ``tokenizer.json``.

    Attributes:
        files: Name → content.
        ids: Text of a token → id, where that is not the id of the tokenizer's file.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Published":
        """Read them.

        Raises:
            ValueError: ``translation.json`` is damaged.
        """
        paths = {name: (folder / name) for name in FILES}
        files = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        return cls(files, _ids(files.get(TRANSLATION)))

    def of_target(self) -> "Published":
        """Return the same for the tokenizer of what a model writes; it has no files of its own."""
        return Published(ids=_ids(self.files.get(f"{TARGET}{TRANSLATION}")))

    def save(self, folder: Path) -> None:
        """Write them into an existing folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def ids_of(self, encoding: Encoding) -> list[int]:
        """Return the ids of a tokenized text."""
        if not self.ids:
            return list(encoding.ids)
        pairs = zip(encoding.tokens, encoding.ids, strict=True)
        return [self.ids.get(token, number) for token, number in pairs]


def _ids(content: bytes | None) -> dict[str, int]:
    found = {} if content is None else json.loads(content)["ids"]
    return {str(token): int(number) for token, number in found.items()}
