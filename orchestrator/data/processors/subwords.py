"""Subword tokenizers: deterministic training.

The trainers of the ``tokenizers`` library number some tokens in the order of a hash map whose seed
changes with every process, so the same corpus gives different ids. Here the alphabet is fixed
before WordPiece is trained, and what is left to chance in Unigram (the last digits of the scores)
is rounded away.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
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

from orchestrator.data.processors.tokenizer_files import CONTINUATION, SENTINEL
from orchestrator.data.spec import CLS, SEP, SPECIAL_TOKENS, UNK
from orchestrator.errors import InputError

Training = Literal["wordpiece", "bpe", "unigram", "characters"]
"""Kinds of trained models; ``characters`` is a WordPiece model without merges."""

ALPHABET_SHARE = 16  # characters take at most one in 16 places of a vocabulary
MIN_ALPHABET = 64  # in small vocabularies
SCORE_DIGITS = 5


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
