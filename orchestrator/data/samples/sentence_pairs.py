"""Pairs of segments: the next sentence or a random one (BERT), in order or swapped (ALBERT).

Devlin et al. 2019, section 3.1 and appendix A.2; Lan et al. 2020, section 3.1. As in BERT's code, a
sample begins as a run of whole sentences of one document that fills the block, is cut in two at a
random sentence, and in one of ten cases (``short_share``) is cut to a random shorter length.
A pair that is too long loses tokens of the longer segment, at its front or its end.

Deviations: BERT makes its samples once (dup_factor times); here the cut, the coin and the random
segment are drawn anew in every epoch. Sentences that BERT "puts back" after a random second segment
was chosen belong to the same sample in other epochs. A run of one sentence is cut inside it.

Shapes: B batch, S block size.
"""

from typing import Literal

import numpy as np
import torch

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.processors.roles import BARE_PAIR
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs
from orchestrator.data.samples.kinds import PairsConfig
from orchestrator.data.samples.masking import IGNORED, Vocabulary, mask_tokens
from orchestrator.data.samples.passages import Passages
from orchestrator.errors import InputError

MIN_TOKENS = 2  # of a pair
UNCHANGED, CHANGED = 0, 1
Second = Literal["next", "order"]
"""The second segment: what follows or a random segment; what follows, or both swapped."""


class PairSamples:
    """Pairs: ``labels.<pair>`` [B], 0 unchanged or 1 changed, and ``labels.<words>`` [B, S].

    Attributes:
        parts: Number of samples from each source.
    """

    def __init__(
        self,
        blocks: TokenBlocks,
        processor: TextProcessor,
        pair_target: str | None,
        words_target: str | None = None,
        seed: int = 7,
        second: Second = "next",
        config: PairsConfig | None = None,
    ) -> None:
        """Lay out the samples.

        Args:
            blocks: Tokens with borders.
            processor: Their tokenizer.
            pair_target: Target that classifies the pair, or None.
            words_target: Target that predicts masked tokens; None masks nothing.
            seed: seed of all choices.
            second: "next": the next segment or a random one of another document; "order": the next
                segment, or both swapped.
            config: Shares of changed and of short pairs, and masking.

        Raises:
            InputError: There is no other document to take a random segment from, or the tokenizer
                lacks a token between texts or, to mask words, a mask token.
        """
        self._roles = roles = blocks.roles
        needs = ("pair",) if words_target is None else ("pair", "mask")
        roles.require_all(needs, "pairs of segments")
        self._length = blocks.block_size
        self._room = blocks.block_size - (len(roles.pair) - len(BARE_PAIR))
        self._passages = Passages(blocks, self._room, longest=max(1, self._room // 2))
        self._config, self._second = config or PairsConfig(), second
        if second == "next" and self._passages.documents < 2:
            raise InputError(
                "pairs with a random second segment need at least two documents; this split has "
                f"{self._passages.documents}. Give more documents, or use the target sop."
            )
        self._vocabulary = Vocabulary.for_rule(processor, roles, self._config.masking)
        self._targets = (pair_target, words_target)
        self._seed = seed
        self.parts = self._passages.parts

    @classmethod
    def build(cls, config: PairsConfig, inputs: SampleInputs) -> "PairSamples":
        """Build the samples of a split."""
        targets = inputs.targets
        return cls(
            inputs.blocks,
            inputs.tokenizer,
            targets.get("nsp") or targets.get("sop"),
            targets.get("mlm"),
            inputs.seed,
            "next" if "nsp" in targets else "order",
            config,
        )

    def __len__(self) -> int:
        return len(self._passages)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, as long as its longest pair."""
        luck = uniform(np.stack(draw(self._seed, Purpose.PAIR, epoch, indices, 1 + self._length)))
        pairs = [self._pair(int(i), luck[:, b]) for b, i in enumerate(indices)]
        framed = [self._roles.joined(a, b) for a, b, _ in pairs]
        lengths = np.asarray([len(ids) for ids, _ in framed])
        ids, types = np.zeros((2, len(pairs), int(lengths.max())), dtype=np.int64)
        real = np.arange(ids.shape[1]) < lengths[:, None]
        ids[:] = self._roles.filler
        for row, (tokens, segments) in enumerate(framed):
            ids[row, : len(tokens)], types[row, : len(tokens)] = tokens, segments
        labels = np.asarray([label for _, _, label in pairs], dtype=np.int64)
        arrays = {
            "input_ids": ids,
            "attention_mask": real.astype(np.int64),
            "token_type_ids": types,
        }
        return self._batch(arrays, labels, indices, epoch)

    def _batch(
        self,
        arrays: dict[str, IntArray],
        answers: IntArray,
        indices: IntArray,
        epoch: int | IntArray,
    ) -> Batch:
        pair, words = self._targets
        labels = {} if pair is None else {pair: answers}
        if words is not None:
            ids, rule = arrays["input_ids"], self._config.masking
            arrays["input_ids"], labels[words] = mask_tokens(
                ids, indices, epoch, self._seed, self._vocabulary, rule
            )
        arrays |= {f"labels.{name}": array for name, array in labels.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _pair(self, index: int, luck: FloatArray) -> tuple[IntArray, IntArray, int]:
        """Return both segments and the label; ``luck`` is [4, 1 + S], in [0, 1)."""
        cut, coin, short, size = luck[:, 0]
        room = self._room
        if short < self._config.short_share:
            room = MIN_TOKENS + int(size * (room - MIN_TOKENS + 1))
        first, second = _cut(self._passages.sentences(index), cut)
        changed = coin < self._config.changed
        if self._second == "next" and (changed or not len(second)):
            wanted = max(1, room - len(first))
            second, changed = self._elsewhere(index, wanted, luck[:2, 1]), True
        elif changed and len(second):
            first, second = second, first
        label = CHANGED if changed else UNCHANGED
        if not len(second):
            label = IGNORED  # one token has no order
        first, second = _shorten(first, second, room, luck[:, 2:].ravel())
        return first, second, label

    def _elsewhere(self, index: int, wanted: int, luck: FloatArray) -> IntArray:
        """Return a random segment of another document."""
        own = self._passages.document(index)
        other = int(luck[0] * (self._passages.documents - 1))
        return self._passages.excerpt(other + (other >= own), float(luck[1]), wanted)


def _cut(sentences: list[IntArray], luck: float) -> tuple[IntArray, IntArray]:
    """Cut a run of sentences in two, a single sentence inside it; one token has no second part."""
    if len(sentences) == 1:
        tokens = sentences[0]
        if len(tokens) < MIN_TOKENS:
            return tokens, tokens[:0]
        place = 1 + int(luck * (len(tokens) - 1))
        return tokens[:place], tokens[place:]
    place = 1 + int(luck * (len(sentences) - 1))
    return np.concatenate(sentences[:place]), np.concatenate(sentences[place:])


def _shorten(
    first: IntArray, second: IntArray, room: int, luck: FloatArray
) -> tuple[IntArray, IntArray]:
    """Take tokens from the longer segment, at its front or end by coin, until both fit."""
    sizes = [len(first), len(second)]
    lost = max(0, sum(sizes) - room)
    long = int(sizes[1] > sizes[0])
    only = min(lost, sizes[long] - sizes[1 - long])  # until both are equally long
    cuts = [0, 0]
    cuts[long] = only + (lost - only) // 2
    cuts[1 - long] = lost - cuts[long]
    coins = luck < 0.5
    fronts = [int(coins[: cuts[0]].sum()), int(coins[cuts[0] : lost].sum())]
    first, second = (
        segment[front : len(segment) - (cut - front)]
        for segment, front, cut in zip((first, second), fronts, cuts, strict=True)
    )
    return first, second
