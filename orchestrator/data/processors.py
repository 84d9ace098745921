"""Text to token ids: a subword tokenizer with the five special tokens at ids 0 to 4.

The folder form is what ``transformers`` opens: ``tokenizer.json`` (read by
``PreTrainedTokenizerFast``), ``tokenizer_config.json`` (so that ``AutoTokenizer`` knows the class)
and ``preprocessor_config.json`` (kind and input limit, ours).

Text never produces special tokens: "[MASK]" written in a text is tokenized like any other word.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from orchestrator.data.spec import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK
from orchestrator.data.subwords import Kind, continues_word, train_tokenizer
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, npt.NDArray[np.int64]]
TOKENIZER, SETTINGS, HUGGING_FACE = (
    "tokenizer.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
DEFAULT_MAX_LENGTH = 512


class TextProcessor:
    """A trained tokenizer and the longest input it makes.

    Attributes:
        tokenizer: the subword tokenizer, without padding or truncation.
        kind: wordpiece, bpe or unigram.
        max_length: default limit of ``__call__`` in tokens, special ones included.
    """

    def __init__(self, tokenizer: Tokenizer, kind: Kind, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.kind: Kind = kind
        self.max_length = max_length

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        kind: Kind = "wordpiece",
        max_length: int = DEFAULT_MAX_LENGTH,
        lowercase: bool = True,
    ) -> "TextProcessor":
        """Train a tokenizer; the same texts give the same ids in every process.

        Args:
            texts: training texts; read more than once.
            vocab_size: largest number of tokens, special ones included.
            kind: subword model.
            max_length: default input limit in tokens.
            lowercase: fold case and accents (wordpiece only).

        Raises:
            InputError: the texts hold no words.
        """
        return cls(train_tokenizer(list(texts), vocab_size, kind, lowercase), kind, max_length)

    @classmethod
    def load(cls, folder: str | Path) -> "TextProcessor":
        """Open what :meth:`save` wrote.

        Raises:
            InputError: a file is missing, damaged, or its special tokens are not at 0 to 4.
        """
        folder = Path(folder)
        if not (folder / TOKENIZER).is_file():
            raise InputError(f"{folder} holds no {TOKENIZER}. Give the folder of a tokenizer.")
        try:
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            settings = _read_settings(folder, tokenizer)
        except Exception as error:
            raise InputError(f"{folder} holds no readable tokenizer: {error}") from error
        found = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
        if found != list(range(len(SPECIAL_TOKENS))):
            raise InputError(
                f"{folder / TOKENIZER}: {', '.join(SPECIAL_TOKENS)} have ids {found}, not 0 to 4. "
                "Train the tokenizer here or renumber it."
            )
        return cls(tokenizer, settings["kind"], settings["max_length"])

    def save(self, folder: str | Path) -> None:
        """Write the three files into an existing or new folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / TOKENIZER))
        settings = {
            "processor_type": "text",
            "kind": self.kind,
            "max_length": self.max_length,
            "vocab_size": self.vocab_size,
        }
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        hugging_face = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "split_special_tokens": True,
            **dict(zip(names, SPECIAL_TOKENS, strict=True)),
        }
        for name, content in ((SETTINGS, settings), (HUGGING_FACE, hugging_face)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.tokenizer.get_vocab_size())

    @cached_property
    def continues(self) -> npt.NDArray[np.bool_]:
        """Whether each token continues the word of the token before it: bool [V]."""
        tokens = (self.tokenizer.id_to_token(i) or "" for i in range(self.vocab_size))
        return np.asarray([continues_word(token, self.kind) for token in tokens])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens and without a limit."""
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        return str(self.tokenizer.decode(list(ids)))

    def arrays(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> Arrays:
        """Tokenize, frame, cut and pad a batch.

        A text becomes ``[CLS] a [SEP]``, a pair ``[CLS] a [SEP] b [SEP]``. Of a pair that is too
        long the longer text is cut, as ``transformers`` does with ``longest_first``.

        Args:
            texts: B texts.
            pairs: B second texts, or None.
            max_length: limit in tokens; None takes the processor's.

        Returns:
            input_ids, attention_mask, token_type_ids, each int64 [B, S], S the longest.

        Raises:
            InputError: there is no text, or fewer or more pairs than texts.
        """
        if not len(texts) or (pairs is not None and len(pairs) != len(texts)):
            count = "no" if pairs is None else len(pairs)
            raise InputError(f"{len(texts)} texts and {count} pairs given. Give as many of both.")
        limit = self.max_length if max_length is None else max_length
        first = self.encode(texts)
        if pairs is None:
            return _pad([_frame(ids, limit) for ids in first], [])
        second = self.encode(pairs)
        cut = [_cut_pair(a, b, limit - 3) for a, b in zip(first, second, strict=True)]
        return _pad([[CLS, *a, SEP, *b, SEP] for a, b in cut], [len(a) + 2 for a, _ in cut])

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


def _read_settings(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Read our settings; a tokenizer from elsewhere has none, then the model says its kind."""
    kinds: dict[str, Literal["wordpiece", "bpe", "unigram"]] = {
        "WordPiece": "wordpiece",
        "BPE": "bpe",
        "Unigram": "unigram",
    }
    kind = kinds[type(tokenizer.model).__name__]
    settings: dict[str, Any] = {"kind": kind, "max_length": DEFAULT_MAX_LENGTH}
    if (folder / SETTINGS).is_file():
        settings |= json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return settings


def _frame(ids: list[int], limit: int) -> list[int]:
    return [CLS, *ids[: limit - 2], SEP]


def _cut_pair(a: list[int], b: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Cut two sequences to ``limit`` tokens together, the longer one first."""
    short, long = sorted((len(a), len(b)))
    if short + long > limit:
        long = max(short, limit - short) if short <= limit else short
        if short + long > limit:
            short, long = limit // 2, limit - limit // 2
    return (a[:long], b[:short]) if len(a) > len(b) else (a[:short], b[:long])


def _pad(sequences: list[list[int]], second_starts: list[int]) -> Arrays:
    """Stack sequences of ids, padded with [PAD] to the longest."""
    lengths = np.asarray([len(ids) for ids in sequences])
    place = np.arange(lengths.max())[None, :]
    real = place < lengths[:, None]
    input_ids = np.full(real.shape, PAD, dtype=np.int64)
    input_ids[real] = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences])
    types = np.zeros_like(input_ids)
    if second_starts:
        types[real & (place >= np.asarray(second_starts)[:, None])] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": real.astype(np.int64),
        "token_type_ids": types,
    }


__all__ = ["CLS", "MASK", "PAD", "SEP", "SPECIAL_TOKENS", "UNK", "TextProcessor"]
