"""Subword tokenizers: deterministic training, and the settings beside ``tokenizer.json``.

The trainers of the ``tokenizers`` library number some tokens in the order of a hash map whose seed
changes with every process, so the same corpus gives different ids. Here the alphabet is fixed
before WordPiece is trained, and what is left to chance in Unigram (the last digits of the scores)
is rounded away.

Tokenizers of Hugging Face name special tokens, truncation and padding sides and limits in
``tokenizer_config.json`` and ``special_tokens_map.json``; where they do not, the names that
everybody uses decide.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from orchestrator.data.spec import CLS, SEP, SPECIAL_TOKENS, UNK
from orchestrator.errors import InputError

Kind = Literal["wordpiece", "bpe", "unigram"]
Training = Literal["wordpiece", "bpe", "unigram", "characters"]
"""Kinds of trained models; ``characters`` is a WordPiece model without merges."""

CONTINUATION = "##"  # WordPiece
SPACE = "▁"  # Unigram
BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č")  # byte-level BPE: space, newline, tab, carriage return
ALPHABET_SHARE = 16  # characters take at most one in 16 places of a vocabulary
MIN_ALPHABET = 64  # in small vocabularies
SCORE_DIGITS = 5
SENTINEL = "<extra_id_{}>"

TOKENIZER, SETTINGS, HUGGING_FACE = (
    "tokenizer.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
SPECIAL_MAP = "special_tokens_map.json"
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


class Texts(Protocol):
    """Texts that can be read more than once."""

    def __iter__(self) -> Iterator[str]:
        """Yield them in order."""

    def __len__(self) -> int:
        """Return how many there are."""


def train_tokenizer(texts: Texts, vocab_size: int, kind: Training, lowercase: bool) -> Tokenizer:
    """Train a tokenizer with the special tokens at 0 to 4 and the framing of BERT.

    Raises:
        InputError: The texts hold no words.
    """
    if not any(text.strip() for text in texts):
        raise InputError(f"no words in {len(texts)} texts to train a tokenizer on")
    train = {"wordpiece": _train_wordpiece, "bpe": _train_bpe, "unigram": _train_unigram}
    if kind == "characters":
        kind, vocab_size = "wordpiece", len(SPECIAL_TOKENS)  # no room beside the alphabet
    tokenizer = train[kind](texts, vocab_size, lowercase)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    cls, sep = SPECIAL_TOKENS[CLS], SPECIAL_TOKENS[SEP]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, CLS), (sep, SEP)],
    )
    return tokenizer


def add_sentinels(tokenizer: Tokenizer, count: int) -> None:
    """Put the tokens that stand for a removed span behind all others.

    As in the vocabulary of T5, ``<extra_id_0>`` has the highest id and the next ones go down.
    """
    names = [SENTINEL.format(number) for number in reversed(range(count))]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )


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
    inputs = theirs.get("model_input_names")
    return TokenizerSettings(
        kind=own.get("kind", KINDS[model]),
        max_length=int(own.get("max_length", _limit(theirs))),
        special=special_ids(tokenizer, named),
        padding_side=_side(theirs, "padding_side"),
        truncation_side=_side(theirs, "truncation_side"),
        segments=inputs is None or "token_type_ids" in inputs,
        config=theirs or None,
    )


def special_ids(tokenizer: Tokenizer, named: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of each special token, by role.

    Args:
        tokenizer: The tokenizer.
        named: ``pad_token``, ``cls_token``, ... as in Hugging Face's files: a text, or a mapping
            with ``content``.
    """
    found: dict[str, int] = {}
    for role, usual in USUAL.items():
        given = named.get(f"{role}_token")
        given = given.get("content") if isinstance(given, Mapping) else given
        for token in (given,) if given else usual:
            number = tokenizer.token_to_id(token) if isinstance(token, str) else None
            if number is not None:
                found[role] = int(number)
                break
    return found


def _train_wordpiece(texts: Texts, vocab_size: int, lowercase: bool) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    counts = Counter(chain.from_iterable(normalizer.normalize_str(text) for text in texts))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    limit = max(MIN_ALPHABET, vocab_size // ALPHABET_SHARE)
    alphabet = sorted([char for char, _ in ranked if not char.isspace()][:limit])
    numbered = [*SPECIAL_TOKENS, *alphabet, *(CONTINUATION + char for char in alphabet)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    learner = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[UNK]))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizer
    learner.train_from_iterator(texts, trainer, length=len(texts))
    # A fresh tokenizer, in which only the five are special and not the whole alphabet.
    model = models.WordPiece(vocab=_model_of(learner)["vocab"], unk_token=SPECIAL_TOKENS[UNK])
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return tokenizer


def _train_bpe(texts: Texts, vocab_size: int, lowercase: bool) -> Tokenizer:
    del lowercase  # byte-level BPE keeps the text as it is
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return tokenizer


def _train_unigram(texts: Texts, vocab_size: int, lowercase: bool) -> Tokenizer:
    del lowercase
    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.NFKC()
    # Split at brackets: otherwise the model would find its special pieces in ordinary text.
    brackets = pre_tokenizers.Split(Regex(r"[\[\]]"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), brackets])
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        unk_token=SPECIAL_TOKENS[UNK],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer, length=len(texts))
    pieces = _model_of(learner)["vocab"]
    special, learned = pieces[: len(SPECIAL_TOKENS)], pieces[len(SPECIAL_TOKENS) :]
    rounded = [(piece, round(score, SCORE_DIGITS)) for piece, score in learned]
    rounded.sort(key=lambda item: (-item[1], item[0]))
    vocab = [*((piece, score) for piece, score in special), *rounded]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=UNK))
    tokenizer.normalizer, tokenizer.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


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
