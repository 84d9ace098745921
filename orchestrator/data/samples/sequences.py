"""Samples for models with an encoder and a decoder: a source and a target sequence.

A batch has ``input_ids``, ``attention_mask`` [B, S], ``decoder_input_ids``,
``decoder_attention_mask`` and ``labels.<name>`` [B, T]. The decoder reads what it has written so
far: its input is a start token and then the labels, one position later; the label of a position is
the token to write there. Both masks follow the sequences as they are after the change, so nothing
attends to padding that shortening left behind.

Shapes: B batch, S source length, T target length, both the longest of the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.passages import Passages
from orchestrator.data.spec import PAD


class SequenceSamples(ABC):
    """Passages, each made into a source and a target.

    Attributes:
        parts: Number of samples from each source.
    """

    start: int = PAD
    """Token that the decoder begins with (T5, PEGASUS: padding)."""
    purpose: Purpose
    """Purpose of the random numbers."""

    def __init__(self, passages: Passages, target_name: str, seed: int) -> None:
        self._passages = passages
        self._target = target_name
        self._seed = seed
        self._luck = passages.room + 2
        self.parts = passages.parts

    def __len__(self) -> int:
        return len(self._passages)

    @abstractmethod
    def make(self, sentences: list[IntArray], luck: FloatArray) -> tuple[IntArray, IntArray]:
        """Return source and target of a passage.

        Args:
            sentences: Tokens of each sentence.
            luck: Uniform numbers in [0, 1), [4, positions]; there are more positions than tokens.
        """

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch."""
        luck = uniform(np.stack(draw(self._seed, self.purpose, epoch, indices, self._luck)))
        made = [
            self.make(self._passages.sentences(int(index)), luck[:, row])
            for row, index in enumerate(indices)
        ]
        sources, targets = zip(*made, strict=True)
        inputs = [np.concatenate([[self.start], target[:-1]]) for target in targets]
        arrays = {
            "input_ids": stack(sources, PAD),
            "attention_mask": stack([np.ones_like(each) for each in sources], 0),
            "decoder_input_ids": stack(inputs, PAD),
            "decoder_attention_mask": stack([np.ones_like(each) for each in targets], 0),
            f"labels.{self._target}": stack(targets, IGNORED),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def stack(sequences: Sequence[IntArray], filler: int) -> IntArray:
    """Stack sequences of different lengths, filled up on the right: [B, longest]."""
    found = np.full((len(sequences), max(map(len, sequences))), filler, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        found[row, : len(sequence)] = sequence
    return found
