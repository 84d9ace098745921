"""Roles of a tokenizer's special tokens, and how it frames a text, a pair and a document.

Whatever makes samples takes ids from here. A role is found by the files of the tokenizer (see
``tokenizer_files.special_ids``), a frame by trying the post-processor of ``tokenizer.json``: BERT
``[CLS] a [SEP] b [SEP]``, RoBERTa ``<s> a </s></s> b </s>``, T5 ``a </s> b </s>``, LLaMA ``<s> a``,
GPT-2 nothing.

Documents of a corpus follow one another, each framed as a text is; the first token of the frame
marks where a document begins. Where nothing stands before a text (T5, GPT-2), the token that ends a
text stands before a document instead of behind it: the same stream, but for its two ends. It is
then also what the last token of the document before predicts.

No library knows all of this: ``transformers`` has the roles, and hides the frames in its calls.

Shapes: B batch, S length, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from tokenizers import Encoding, Tokenizer

from orchestrator.arrays import BoolArray, IntArray
from orchestrator.data.processors.tokenizer_files import (
    SENTENCE_MASK,
    TokenizerSettings,
    sentinel_ids,
)
from orchestrator.data.spec import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK
from orchestrator.errors import InputError

FIRST, SECOND = -1, -2
"""Places of the texts in a template."""

Template = tuple[tuple[int, int], ...]
"""Id or place of a text, and its segment, of everything in a framed text or pair."""

BARE: Template = ((FIRST, 0),)
BARE_PAIR: Template = ((FIRST, 0), (SECOND, 0))
"""Frames without any token."""

NAMED = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
"""Roles that a token can have."""
PROBES = ("a", "A", "1", ".")
"""Texts that are framed to see the frame; the first that has tokens."""
PROBED_IDS = 512
"""Ids whose text is tried when none of them has tokens."""

ADVICE = {
    "mask": "Use samples that hide nothing, like those of the target lm, or name a mask_token in "
    "tokenizer_config.json.",
    "pair": "Use samples of single texts.",
    "sentinels": "Use a tokenizer with <extra_id_0>, <extra_id_1>, ... (T5), or samples of type "
    "denoising.",
    "pad": "Name a pad_token in tokenizer_config.json.",
}
"""Missing role → what to do."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Ids by role; None or empty: the tokenizer has no such token.

    Attributes:
        pad: Padding.
        unk: Unknown characters.
        cls: Beginning of a text whose first vector is read.
        sep: Border between texts.
        mask: Hidden tokens.
        bos: Beginning of a text.
        eos: End of a text.
        sentence_mask: Hidden sentences (PEGASUS); None: the same as ``mask``.
        added: Tokens that were added to the vocabulary of the model; text yields none of them that
            is special.
        special: Tokens that are never hidden or predicted as words: those with a role, and the
            added ones that are special.
        sentinels: ``<extra_id_0>``, ``<extra_id_1>``, ... in this order.
        single: Frame of a text.
        pair: Frame of two texts.
    """

    pad: int | None = None
    unk: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None
    bos: int | None = None
    eos: int | None = None
    sentence_mask: int | None = None
    added: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    sentinels: tuple[int, ...] = ()
    single: Template = BARE
    pair: Template = BARE_PAIR

    @property
    def begin(self) -> tuple[int, ...]:
        """Tokens before a text."""
        return _ids(self.single[: _place(self.single, FIRST)])

    @property
    def end(self) -> tuple[int, ...]:
        """Tokens behind a text."""
        return _ids(self.single[_place(self.single, FIRST) + 1 :])

    @property
    def ending(self) -> int:
        """The token that ends a text: the end token, else the separator.

        Raises:
            InputError: The tokenizer has neither.
        """
        found = self.sep if self.eos is None else self.eos
        if found is None:
            raise InputError("this tokenizer has no token that ends a text (eos or sep).")
        return found

    @property
    def opening(self) -> tuple[int, ...]:
        """Tokens before a document of a corpus, at least one.

        Raises:
            InputError: The tokenizer has no token that could mark where a document begins.
        """
        known = (self.eos, self.sep, self.bos, self.cls)
        found = self.begin or self.end or tuple(each for each in known if each is not None)[:1]
        if not found:
            raise InputError(
                "this tokenizer has no token that separates documents. Name an eos_token in "
                "tokenizer_config.json."
            )
        return found

    @property
    def closing(self) -> tuple[int, ...]:
        """Tokens behind a document of a corpus."""
        return self.end if self.begin and self.begin[0] not in self.end else ()

    @property
    def opening_ends(self) -> bool:
        """Whether the token that begins a document also ends the one before it."""
        return not self.closing and self.opening[0] in (self.eos, self.sep, *self.end)

    @property
    def filler(self) -> int:
        """The id that fills the last block of a corpus: padding, or the mark of documents."""
        own = self.pad is not None and self.pad in self.added and self.pad != self.unk
        return self.pad if own and self.pad is not None else self.opening[0]

    def padding(self, ids: IntArray) -> BoolArray:
        """Return which tokens of blocks [B, S] are padding.

        Where padding is also a mark of documents, it is what follows another one: documents are
        never empty, and no block begins with padding.
        """
        filler = self.filler
        found = np.asarray(ids == filler)
        if filler in (*self.opening, *self.closing):
            found[:, 1:] &= ids[:, :-1] == filler
            found[:, 0] = False
        return found

    def begins(self, ids: IntArray) -> BoolArray:
        """Return where documents begin in blocks: bool [B, S]."""
        return np.asarray((ids == self.opening[0]) & ~self.padding(ids))

    def ordinary(self, size: int) -> BoolArray:
        """Return which ids below ``size`` are words, not special tokens: bool [V]."""
        return _without(size, self.special)

    def drawable(self, size: int) -> IntArray:
        """Return the ids below ``size`` that may replace a word: neither special nor added."""
        return np.flatnonzero(_without(size, (*self.special, *self.added)))

    def joined(self, first: IntArray, second: IntArray) -> tuple[IntArray, IntArray]:
        """Return ids and segments of a framed pair, int64 [S] each."""
        texts = {FIRST: first, SECOND: second}
        parts = [texts.get(piece, np.asarray([piece])) for piece, _ in self.pair]
        segments = [segment for _, segment in self.pair]
        types = np.repeat(segments, [len(part) for part in parts])
        return np.concatenate(parts).astype(np.int64), types.astype(np.int64)

    def require(self, role: str, use: str) -> int:
        """Return the id of a role.

        Args:
            role: One of ``NAMED``.
            use: What needs it.

        Raises:
            InputError: The tokenizer has none; says what to do.
        """
        found: int | None = getattr(self, role)
        if found is None and role == "sentence_mask":
            return self.require("mask", use)
        if found is None:
            raise self._missing(role, use, f"no {role} token")
        return found

    def require_all(self, needs: Sequence[str], use: str) -> None:
        """Refuse a tokenizer that lacks something.

        Args:
            needs: Roles, ``pair`` (a token between two texts) or ``sentinels``.
            use: What needs them.

        Raises:
            InputError: Naming the first that is missing.
        """
        for need in needs:
            if need == "pair":
                places = _place(self.pair, FIRST), _place(self.pair, SECOND)
                if places[1] == places[0] + 1:
                    raise self._missing(need, use, "no token between two texts")
            elif need == "sentinels":
                if not self.sentinels:
                    raise self._missing(need, use, "no sentinels <extra_id_0>, <extra_id_1>, ...")
            else:
                self.require(need, use)

    def _missing(self, need: str, use: str, lacks: str) -> InputError:
        has = [name for name in NAMED if getattr(self, name) is not None]
        known = f"it has {', '.join(has)}" if has else "it has no special tokens"
        advice = ADVICE.get(need, f"Name a {need}_token in tokenizer_config.json.")
        return InputError(f"{use}: this tokenizer has {lacks} ({known}). {advice}")


OURS = Roles(
    pad=PAD,
    unk=UNK,
    cls=CLS,
    sep=SEP,
    mask=MASK,
    added=tuple(range(len(SPECIAL_TOKENS))),
    special=tuple(range(len(SPECIAL_TOKENS))),
    single=((CLS, 0), (FIRST, 0), (SEP, 0)),
    pair=((CLS, 0), (FIRST, 0), (SEP, 0), (SECOND, 1), (SEP, 1)),
)
"""Roles of tokenizers trained here, without sentinels."""


def roles_of(tokenizer: Tokenizer, settings: TokenizerSettings) -> Roles:
    """Return the roles of a tokenizer."""
    special, added = settings.special, tokenizer.get_added_tokens_decoder()
    frozen = {number for number, token in added.items() if token.special}
    return Roles(
        **{role: special.get(role) for role in (*NAMED, SENTENCE_MASK)},
        added=tuple(sorted(added)),
        special=tuple(sorted(frozen | set(special.values()))),
        sentinels=tuple(sentinel_ids(tokenizer)),
        single=template_of(tokenizer, False, settings.segments),
        pair=template_of(tokenizer, True, settings.segments),
    )


def template_of(tokenizer: Tokenizer, pair: bool, segments: bool) -> Template:
    """Return the frame that the post-processor puts around a text or a pair.

    Args:
        tokenizer: The tokenizer.
        pair: Two texts, not one.
        segments: Whether the model reads segments; without, all are 0.
    """
    first = _probe(tokenizer)
    if first is None:  # it reads no text; whatever needs a frame will say so
        return BARE_PAIR if pair else BARE
    framed = tokenizer.post_process(first, _probe(tokenizer) if pair else None, True)
    places = iter((FIRST, SECOND))
    # Not by sequence_ids: the library leaves them out for the first text of some pairs.
    return tuple(
        (number if special else next(places), segment if segments else 0)
        for number, segment, special in zip(
            framed.ids, framed.type_ids, framed.special_tokens_mask, strict=True
        )
    )


def _probe(tokenizer: Tokenizer) -> Encoding | None:
    """Return one token of some text."""
    words = (tokenizer.decode([number]) for number in range(PROBED_IDS))
    for text in chain(PROBES, words):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding):
            encoding.truncate(1)
            return encoding
    return None


def _place(template: Template, text: int) -> int:
    return next(place for place, (piece, _) in enumerate(template) if piece == text)


def _ids(pieces: Template) -> tuple[int, ...]:
    return tuple(piece for piece, _ in pieces)


def _without(size: int, ids: tuple[int, ...]) -> BoolArray:
    found = np.ones(size, dtype=bool)
    found[[number for number in ids if number < size]] = False
    return found
