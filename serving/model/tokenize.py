"""Tokenization with the processor that the model was trained with.

Two rules of a service are added: a text that is too long is refused unless the request allows
truncation, and single texts and pairs may share a request. Loads no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from typing_extensions import TypedDict

from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError, IntegrityError
from serving.model.batching import Encoded


class TextInput(NamedTuple):
    """One input: a text, or a pair of texts."""

    text: str
    pair: str | None = None


class Token(TypedDict):
    """One token of a text.

    Attributes:
        id: index in the vocabulary.
        text: the token as the vocabulary has it.
        special: whether the tokenizer added it.
        start: first character in the text; None for special tokens.
        stop: one past the last character; None for special tokens.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TooLongError(ValueError):
    """A text has more tokens than the model reads and may not be cut."""


class TextTokenizer:
    """The tokenizer of a package, limited to what its model reads.

    Args:
        folder: package folder.
        limits: lengths that must not be passed, special tokens included; the smallest counts.

    Raises:
        IntegrityError: the package holds no tokenizer, or a damaged one.
    """

    def __init__(self, folder: Path, *limits: int | None) -> None:
        try:
            self._processor = TextProcessor.load(folder)
        except InputError as error:
            raise IntegrityError(f"Only packages that read text can be served: {error}") from error
        lengths = (self._processor.max_length, *limits)
        self.max_length = min(length for length in lengths if length)

    def encode(self, inputs: Sequence[TextInput], *, truncate: bool) -> list[Encoded]:
        """Tokenize.

        Args:
            inputs: texts and pairs; not empty.
            truncate: cut what is too long, the longer text of a pair first.

        Raises:
            TooLongError: an input is too long and ``truncate`` is false.
        """
        # One token more than allowed is enough to see that a text is too long.
        limit = self.max_length if truncate else self.max_length + 1
        encoded = self._encode_mixed(inputs, limit)
        for index, item in enumerate(encoded):
            if len(item) > self.max_length:
                raise TooLongError(
                    f"Input {index} has more than the {self.max_length} tokens the model reads. "
                    "Shorten it or send `truncate: true`."
                )
        return encoded

    def tokens(self, text: str, *, special: bool) -> list[Token]:
        """Return the tokens of a text with their places in it; None where a token has none."""
        encoding = self._processor.tokenizer.encode(text, add_special_tokens=special)
        return [
            {
                "id": identifier,
                "text": token,
                "special": bool(is_special),
                "start": None if is_special else start,
                "stop": None if is_special else stop,
            }
            for identifier, token, is_special, (start, stop) in zip(
                encoding.ids,
                encoding.tokens,
                encoding.special_tokens_mask,
                encoding.offsets,
                strict=True,
            )
        ]

    def _encode_mixed(self, inputs: Sequence[TextInput], limit: int) -> list[Encoded]:
        singles = [index for index, item in enumerate(inputs) if item.pair is None]
        if len(singles) == len(inputs):
            return self._encode([item.text for item in inputs], None, limit)
        pairs = [index for index, item in enumerate(inputs) if item.pair is not None]
        found = dict(
            zip(
                pairs,
                self._encode(
                    [inputs[index].text for index in pairs],
                    [inputs[index].pair or "" for index in pairs],
                    limit,
                ),
                strict=True,
            )
        )
        if singles:
            alone = self._encode([inputs[index].text for index in singles], None, limit)
            found |= dict(zip(singles, alone, strict=True))
        return [found[index] for index in range(len(inputs))]

    def _encode(self, texts: list[str], pairs: list[str] | None, limit: int) -> list[Encoded]:
        arrays = self._processor.arrays(texts, pairs, limit, "right")
        lengths = arrays["attention_mask"].sum(axis=1)
        return [
            Encoded(
                arrays["input_ids"][row, :length],
                arrays["token_type_ids"][row, :length],
            )
            for row, length in enumerate(lengths)
        ]
