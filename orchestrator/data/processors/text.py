"""Text to token ids: a subword tokenizer trained here, or any fast one of Hugging Face.

The folder form is what ``transformers`` opens: ``tokenizer.json`` (read by
``PreTrainedTokenizerFast``), ``tokenizer_config.json`` (so that ``AutoTokenizer`` knows the class)
and ``preprocessor_config.json`` (kind and input limit, ours). Tokenizers trained here have the five
special tokens at ids 0 to 4, others anywhere (see ``processors.roles``). The ``tokenizer.json`` of
a tokenizer that was read is written again byte by byte.

Text never produces special tokens: "[MASK]" written in a text is tokenized like any other word.

The tokenizer that a config asks for: one that exists, or one trained on the texts at hand.
"""

import json
from collections.abc import Iterable, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from orchestrator.data.processors.roles import Roles, roles_of
from orchestrator.data.processors.subwords import Texts, Training, add_sentinels, train_tokenizer
from orchestrator.data.processors.tokenized import tokenized
from orchestrator.data.processors.tokenizer_files import (
    DEFAULT_MAX_LENGTH,
    HUGGING_FACE,
    SETTINGS,
    TARGET_TOKENIZER,
    TOKENIZER,
    Kind,
    Published,
    Side,
    TokenizerSettings,
    continues_word,
    read_settings,
)
from orchestrator.data.spec import SPECIAL_TOKENS, CorpusConfig
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


Arrays = dict[str, npt.NDArray[np.int64]]


class TextProcessor:
    """A tokenizer and the longest input it makes.

    Attributes:
        tokenizer: The subword tokenizer, without padding or truncation.
        settings: Special tokens by role, sides, and what came with the tokenizer.
        kind: Wordpiece, bpe or unigram.
        max_length: Default limit of ``__call__`` in tokens, special ones included.
        published: What came beside ``tokenizer.json``.
        target: The tokenizer of what a model writes; this one, except for Marian's.
    """

    def __init__(
        self, tokenizer: Tokenizer, settings: TokenizerSettings, content: bytes | None = None
    ) -> None:
        """Take a tokenizer.

        Args:
            tokenizer: The tokenizer; its padding and truncation are switched off.
            settings: What its file does not hold.
            content: Its file, if it was read from one.
        """
        self._content = content
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.settings = settings
        self.kind: Kind = settings.kind
        self.max_length = settings.max_length
        self.published = Published()
        self.target = self

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        kind: Training = "wordpiece",
        max_length: int = DEFAULT_MAX_LENGTH,
        lowercase: bool = True,
    ) -> "TextProcessor":
        """Train a tokenizer; the same texts give the same ids in every process.

        Args:
            texts: Training texts; read more than once, so an iterator is stored in a list.
            vocab_size: Largest number of tokens, special ones included.
            kind: Subword model, or characters.
            max_length: Default input limit in tokens.
            lowercase: Fold case and accents (wordpiece and characters only).

        Raises:
            InputError: The texts hold no words.
        """
        countable = texts if isinstance(texts, Sized) else list(texts)
        tokenizer = train_tokenizer(countable, vocab_size, kind, lowercase)
        model: Kind = "wordpiece" if kind == "characters" else kind
        return cls(tokenizer, TokenizerSettings(model, max_length))

    @classmethod
    def load(cls, folder: str | Path) -> "TextProcessor":
        """Open what :meth:`save` wrote, or the tokenizer of a checkpoint of Hugging Face.

        Raises:
            InputError: A file is missing or damaged, or the tokenizer is of another kind.
        """
        folder = Path(folder)
        if not (folder / TOKENIZER).is_file():
            raise InputError(f"{folder} holds no {TOKENIZER}. Give the folder of a tokenizer.")
        try:
            content = (folder / TOKENIZER).read_bytes()
            tokenizer = Tokenizer.from_buffer(content)
            processor = cls(tokenizer, read_settings(folder, tokenizer), content)
            processor.published = Published.load(folder)
            if (folder / TARGET_TOKENIZER).is_file():
                written = Tokenizer.from_file(str(folder / TARGET_TOKENIZER))
                processor.target = cls(written, processor.settings)
                processor.target.published = processor.published.of_target()
        except Exception as error:
            raise InputError(f"{folder} holds no readable tokenizer: {error}") from error
        return processor

    def save(self, folder: str | Path) -> tuple[str, ...]:
        """Write the three files, and those that came beside them; return their names."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.published.save(folder)
        content = self._content
        if content is not None and _same(content, self.tokenizer):
            (folder / TOKENIZER).write_bytes(content)
        else:
            self.tokenizer.save(str(folder / TOKENIZER))
        settings = {
            "processor_type": "text",
            "kind": self.kind,
            "max_length": self.max_length,
            "vocab_size": self.vocab_size,
        }
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        ours = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "split_special_tokens": True,
            **dict(zip(names, SPECIAL_TOKENS, strict=True)),
        }
        hugging_face = dict(self.settings.config or ours)
        if self.max_length != self.settings.max_length:
            hugging_face["model_max_length"] = self.max_length
        for name, values in ((SETTINGS, settings), (HUGGING_FACE, hugging_face)):
            (folder / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        return (TOKENIZER, SETTINGS, HUGGING_FACE, *self.published.files)

    @property
    def vocab_size(self) -> int:
        """Number of token ids; some may have no token."""
        numbers = {**self.tokenizer.get_vocab(), **self.published.ids}
        return max(numbers.values(), default=-1) + 1

    @cached_property
    def roles(self) -> Roles:
        """Its special tokens by role, and how it frames texts."""
        return roles_of(self.tokenizer, self.settings)

    @cached_property
    def continues(self) -> npt.NDArray[np.bool_]:
        """Whether each token continues the word of the token before it: bool [V]."""
        tokens = (self.tokenizer.id_to_token(i) or "" for i in range(self.vocab_size))
        found = np.asarray([continues_word(token, self.kind) for token in tokens])
        added = self.tokenizer.get_added_tokens_decoder()
        found[[i for i, token in added.items() if token.special and i < len(found)]] = False
        return found

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens and without a limit."""
        return [self.ids_of(encoding) for encoding in self._encode(texts)]

    def ids_of(self, encoding: Encoding) -> list[int]:
        """Return the ids of a tokenized text."""
        return self.published.ids_of(encoding)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        tokenizer = self.tokenizer  # the fast form leaves out the texts of tokens
        encode = tokenizer.encode_batch if self.published.ids else tokenizer.encode_batch_fast
        return tokenized(encode, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        return str(self.tokenizer.decode(list(ids)))

    def arrays(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        side: Side | None = None,
        cut: Side | None = None,
    ) -> Arrays:
        """Tokenize, frame, cut and pad a batch.

        With a tokenizer trained here a text becomes ``[CLS] a [SEP]``, a pair ``[CLS] a [SEP] b
        [SEP]``. Of a pair that is too long the longer text is cut, as ``transformers`` does with
        ``longest_first``.

        Args:
            texts: B texts.
            pairs: B second texts, or None.
            max_length: Limit in tokens; None takes the processor's.
            side: Where padding goes; None takes the tokenizer's own side.
            cut: Where texts that are too long are cut; None takes the tokenizer's own side.

        Returns:
            input_ids, attention_mask, token_type_ids, each int64 [B, S], S the longest.

        Raises:
            InputError: There is no text, or fewer or more pairs than texts.
        """
        if not len(texts) or (pairs is not None and len(pairs) != len(texts)):
            count = "no" if pairs is None else len(pairs)
            raise InputError(f"{len(texts)} texts and {count} pairs given. Give as many of both.")
        limit = self.max_length if max_length is None else max_length
        room = max(limit - self.tokenizer.num_special_tokens_to_add(pairs is not None), 0)
        first = self._encode(texts)
        side = side or self.settings.padding_side
        if pairs is None:
            return self.stack([self.frame(a, room, cut=cut) for a in first], side)
        both = zip(first, self._encode(pairs), strict=True)
        return self.stack([self.frame(a, room, b, cut) for a, b in both], side)

    def word_arrays(
        self, rows: Sequence[Sequence[str]], max_length: int | None = None
    ) -> tuple[Arrays, npt.NDArray[np.int64]]:
        """Tokenize texts that are given as words, and tell where each word begins.

        Words after the first one are read with a blank before them: the tokens are those of the
        running text. Sequences are cut and padded at their end.

        Args:
            rows: The words of B texts.
            max_length: Limit in tokens; None takes the processor's.

        Returns:
            What :meth:`arrays` returns; and, int64 [B, S], at the first token of each word its
            place in the text, -1 elsewhere.
        """
        limit = self.max_length if max_length is None else max_length
        room = max(limit - self.tokenizer.num_special_tokens_to_add(False), 0)
        words = [[word if i == 0 else f" {word}" for i, word in enumerate(row)] for row in rows]
        encodings = tokenized(self.tokenizer.encode_batch, words, is_pretokenized=True)
        for encoding in encodings:
            encoding.truncate(room)
        framed = [self.tokenizer.post_process(each, None, True) for each in encodings]
        arrays = self.stack(framed, "right")
        starts = np.full_like(arrays["input_ids"], -1)
        for row, encoding in zip(starts, framed, strict=True):
            before = None
            for place, word in enumerate(encoding.word_ids):
                if word is not None and word != before:
                    row[place] = word
                before = word
        return arrays, starts

    def frame(
        self, first: Encoding, room: int, second: Encoding | None = None, cut: Side | None = None
    ) -> Encoding:
        """Cut a text or a pair to ``room`` tokens and put the special tokens around it."""
        side = cut or self.settings.truncation_side
        length, other = room, 0
        if second is not None:
            length, other = cut_pair(len(first), len(second), room)
            second.truncate(other, direction=side)
        first.truncate(length, direction=side)
        return self.tokenizer.post_process(first, second, add_special_tokens=True)

    def stack(self, encodings: list[Encoding], side: Side) -> Arrays:
        """Stack sequences, padded to the longest."""
        lengths = np.asarray([len(encoding) for encoding in encodings])
        place = np.arange(lengths.max())[None, :]
        real = place < lengths[:, None]
        real = real[:, ::-1] if side == "left" else real
        input_ids = np.full(real.shape, self.settings.pad_id, dtype=np.int64)
        input_ids[real] = np.concatenate([self.ids_of(encoding) for encoding in encodings])
        types = np.zeros_like(input_ids)
        if self.settings.segments:
            types[real] = np.concatenate([encoding.type_ids for encoding in encodings])
        return {
            "input_ids": input_ids,
            "attention_mask": real.astype(np.int64),
            "token_type_ids": types,
        }

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> "dict[str, Tensor]":
        """Return :meth:`arrays` as tensors: a batch ready for a model, int64 [B, S] each."""
        import torch

        found = self.arrays(texts, pairs, max_length)
        return {name: torch.from_numpy(array) for name, array in found.items()}


def _same(content: bytes, tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer equals that of a file, except for padding and truncation."""
    stored = Tokenizer.from_buffer(content)
    stored.no_padding()
    stored.no_truncation()
    return bool(stored.to_str() == tokenizer.to_str())


def cut_pair(first: int, second: int, limit: int) -> tuple[int, int]:
    """Return the lengths to which two sequences are cut, the longer one first."""
    short, long = sorted((first, second))
    if short + long > limit:
        long = max(short, limit - short) if short <= limit else short
        if short + long > limit:
            short, long = limit // 2, limit - limit // 2
    return (long, short) if first > second else (short, long)


def chosen_tokenizer(config: CorpusConfig, texts: Texts) -> TextProcessor:
    """Load the tokenizer that the config names, or train one.

    Args:
        config: The tokenizer's settings, and the longest text in tokens (``block_size``).
        texts: What to train it on; not read where one is named.

    Raises:
        InputError: The named one is not there.
    """
    settings, length = config.tokenizer, config.block_size
    if settings.path is not None:
        processor = TextProcessor.load(settings.path)
        processor.max_length = length
        return processor
    learned = settings.vocab_size - settings.sentinels
    processor = TextProcessor.train(texts, learned, settings.type, length, settings.lowercase)
    add_sentinels(processor.tokenizer, settings.sentinels)
    return processor
