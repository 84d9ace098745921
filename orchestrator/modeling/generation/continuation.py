"""Sequences that grow token by token: the logits of the next token, and strings that end them.

Stop strings are looked for in the decoded text, since one string has many token sequences. The
library's ``StopStringCriteria`` needs its own tokenizer class; packages have the tokenizer alone.

Legend: B rows, T positions so far, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from orchestrator.errors import InputError
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.interfaces import Batch, Target, all_real
from orchestrator.modeling.layers.attention import known_full
from orchestrator.modeling.layers.block_options import LongRopeScaling
from orchestrator.modeling.layers.cache import Cache
from orchestrator.modeling.model import Model

LIMITED = ("pos", "sinusoidalpos")
"""Embedding parts that have no more than max_position_embeddings."""

Decode = Callable[[Sequence[int]], str]
"""New tokens of a row → text."""


def _length_of_other_angles(model: Model) -> int | None:
    """Return the length beyond which all positions are turned by other angles (LongRoPE)."""
    rotary = getattr(model.config.encoder, "rotary", None)
    scaling = None if rotary is None else rotary.scaling
    if isinstance(scaling, LongRopeScaling):
        return scaling.original_max_position_embeddings
    return None


class Continuation:
    """A batch of token sequences that a model continues.

    Padding is moved to the left, so that all rows end at the same place; positions count real
    tokens only. A transformer reads each token once and keeps its keys and values; encoders
    that have no cache read the whole sequence again.

    Args:
        model: A language model or encoder-decoder.
        batch: Its inputs: ``input_ids`` [B, S] and ``attention_mask`` of the text to continue; with
            a decoder, what the encoder reads, and ``decoder_input_ids`` of the text to continue.
        start: First token of a decoder, if the batch does not give it one.
        target: Name of the target whose logits count.
        cached: Keep keys and values.
    """

    def __init__(
        self, model: Model, batch: Batch, *, start: int, target: str, cached: bool = True
    ) -> None:
        self.model, self.target, self.cached = model, target, cached
        self.cache = Cache()
        self.turns_at = _length_of_other_angles(model)
        self.memory: tuple[Tensor, Tensor] | None = None
        side = "" if model.decoder is None else "decoder_"
        if model.decoder is not None:
            self.memory = model.read(batch)
            hidden = self.memory[0]
            first = torch.full((len(hidden), 1), start, device=hidden.device)
            batch = {"decoder_input_ids": first, **batch}
        ids, mask = batch[f"{side}input_ids"], batch.get(f"{side}attention_mask")
        self.full = mask is None or known_full(mask)
        self.mask = torch.ones_like(ids) if mask is None else mask.long()
        order = self.mask.argsort(dim=1, stable=True)  # padding first
        self.tokens, self.mask = ids.gather(1, order), self.mask.gather(1, order)
        self.prompt = self.mask
        kinds = batch.get(f"{side}token_type_ids")
        self.kinds = None if kinds is None else kinds.gather(1, order)

    def start(self) -> Tensor:
        """Return the logits after the text so far, [B, V]."""
        return self._logits(self.tokens.shape[1])

    def extend(self, tokens: Tensor) -> Tensor:
        """Append a token to each row, [B]; return the logits after it, [B, V]."""
        self.tokens = torch.cat([self.tokens, tokens[:, None]], 1)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        if self.kinds is not None:
            self.kinds = torch.cat([self.kinds, self.kinds[:, -1:]], 1)
        return self._logits(1)

    def select(self, rows: Tensor, *, same_inputs: bool = False) -> None:
        """Keep these rows, in this order, any number of times each.

        Args:
            rows: Indices.
            same_inputs: Each row is replaced by one that continues the same input, so that what the
                encoder read of it stays (beam search moves rows at every step).
        """
        self.tokens, self.mask, self.prompt = (
            each.index_select(0, rows) for each in (self.tokens, self.mask, self.prompt)
        )
        if self.kinds is not None:
            self.kinds = self.kinds.index_select(0, rows)
        if self.memory is not None and not same_inputs:
            hidden, mask = self.memory
            self.memory = (hidden.index_select(0, rows), mask.index_select(0, rows))
        self.cache.select(rows, across=not same_inputs)

    def _logits(self, new: int) -> Tensor:
        """Read the last ``new`` positions; return the logits after them, [B, V]."""
        encoder = self.model.config.encoder
        if self.turns_at is not None and int(self.mask.sum(1).max()) > self.turns_at:
            self.turns_at, self.cache = None, Cache()  # the keys so far were turned by other angles
            new = self.tokens.shape[1]
        if self.model.decoder is None and not isinstance(encoder, TransformerConfig):
            hidden, _ = self.model.read(self._batch(self.tokens.shape[1]))
        elif self.cached:
            hidden = self.model.advance(self._batch(new), self.cache, self.memory)
        else:
            hidden = self.model.advance(self._batch(self.tokens.shape[1]), Cache(), self.memory)
        head = cast(Target, self.model.targets[self.target])
        return head.predict(hidden[:, -1:], self.mask[:, -1:])[:, 0].float()

    def _real(self) -> Tensor:
        """Return the mask, of one value seen everywhere if nothing is padding."""
        if not self.full:
            return self.mask
        rows, length = self.mask.shape
        return all_real(rows, length, self.mask.device)

    def _batch(self, new: int) -> Batch:
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        batch = {
            "input_ids": self.tokens[:, -new:],
            "attention_mask": self._real(),
            "position_ids": positions[:, -new:],
        }
        if self.kinds is not None:
            batch["token_type_ids"] = self.kinds[:, -new:]
        if getattr(self.model.config.encoder, "mask", None) == "prefix":
            added = self.tokens.shape[1] - self.prompt.shape[1]
            batch["prefix_mask"] = torch.nn.functional.pad(self.prompt, (0, added))
        return batch


def require_room(model: Model, prompt: int, new: int) -> None:
    """Refuse to write past the last position.

    Args:
        model: The model.
        prompt: Tokens that are given.
        new: Tokens that are added at most.

    Raises:
        InputError: There are not as many positions.
    """
    config = model.config
    side = config.embedding if config.target_embedding is None else config.target_embedding
    limit = side.max_position_embeddings or config.max_position_embeddings
    limited = any(side.part(name) is not None for name in LIMITED)
    # the last token is written, but never read
    if limited and prompt + new - 1 > limit:
        raise InputError(
            f"{prompt} tokens and {new} new ones (max_new_tokens) do not fit the model's {limit} "
            f"positions. Set max_new_tokens to {max(limit - prompt + 1, 0)}, or shorten the text."
        )


class Stops:
    """Finds rows whose new text holds a stop string.

    Args:
        strings: Any of them ends a row.
        decode: Tokens to text; not needed without strings.
    """

    def __init__(self, strings: Sequence[str], decode: Decode | None) -> None:
        self._strings, self._decode = tuple(strings), decode

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return which rows of new tokens [N, T] hold one, bool [N]."""
        found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if self._decode is None or not self._strings:
            return found
        for row, ids in enumerate(tokens.tolist()):
            text = self._decode(ids)
            found[row] = any(string in text for string in self._strings)
        return found
