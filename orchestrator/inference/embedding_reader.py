"""Texts as token sequences for embeddings: prompt, lower case and limit as the package states.

A package without a statement reads them as it reads texts for its heads. No torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tokenizers import normalizers

from orchestrator.errors import InputError
from orchestrator.inference.inputs import Encoded, Item, TextReader

if TYPE_CHECKING:
    from orchestrator.data.processors.tokenizer_files import Side
    from orchestrator.modeling.sentence.statement import SentenceEmbedding


class EmbeddingReader:
    """The tokenizer of a package, as its embeddings need it.

    Attributes:
        statement: What the package states; None: nothing.
    """

    def __init__(
        self, reader: TextReader, statement: "SentenceEmbedding | None", longest: int
    ) -> None:
        self.statement = statement
        if statement is not None:
            reader = TextReader(reader.processor, min(statement.max_length, longest))
        self._reader = reader

    @property
    def max_length(self) -> int:
        """Longest sequence, prompt and special tokens included."""
        return self._reader.max_length

    def limit(self, max_length: int) -> None:
        """Lower the limit, which the limits of heads have no part in."""
        shorter = min(self.max_length, max_length)
        self._reader = TextReader(self._reader.processor, shorter)

    def encode(
        self,
        items: Sequence[Item],
        prompt: str | None = None,
        *,
        truncate: bool = True,
        cut: "Side | None" = None,
    ) -> list[Encoded]:
        """Tokenize.

        Args:
            items: Texts.
            prompt: Name of a prompt; None: the default one; an empty name: no prompt.
            truncate: Cut what is too long.
            cut: At which end; None: where the tokenizer does.

        Raises:
            InputError: The prompt is unknown.
            TooLongError: An item is too long and ``truncate`` is false.
        """
        stated = self.statement
        if stated is None:
            if prompt:
                raise InputError(f"prompt {prompt!r} is unknown: the package states none.")
            return self._reader.encode(items, truncate=truncate, cut=cut)
        text = stated.prompt(prompt)
        if text or stated.lowercase:
            items = [self._framed(item, text) for item in items]
        encoded = self._reader.encode(items, truncate=truncate, cut=cut)
        if not text or stated.include_prompt:
            return encoded
        count = self._prompt_tokens(text)
        return [
            replace(each, sequences=tuple(replace(s, prompt=count) for s in each.sequences))
            for each in encoded
        ]

    def _framed(self, item: Item, prompt: str) -> Item:
        stated = self.statement
        if item.tokens:
            before = self._reader.processor.encode([prompt])[0] if prompt else []
            return item._replace(tokens=(*before, *self._reader.frame.bare(item.tokens)))
        text, pair = prompt + item.text, item.pair
        if stated is not None and stated.lowercase:
            # As sentence-transformers folds: character by character, unlike str.lower.
            fold = normalizers.Lowercase().normalize_str
            text, pair = fold(text), None if pair is None else fold(pair)
        return item._replace(text=text, pair=pair)

    def _prompt_tokens(self, text: str) -> int:
        """Return the number of leading tokens that a prompt takes, special ones included."""
        tokens = self._reader.encode([self._framed(Item(text), "")])[0].sequences[0]
        last = int(tokens.input_ids[-1])
        special = self._reader.processor.tokenizer.get_added_tokens_decoder().get(last)
        return len(tokens) - int(special is not None and special.special)
