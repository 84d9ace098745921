"""Pairs for a model of two streams, and two texts that belong together as such pairs.

Each text has to find its partner among those of the other rows of the batch (in-batch negatives;
Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply", section
4.3).

Shapes: B batch.
"""

from collections.abc import Mapping

import torch

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.samples.base import Batch, SampleInputs
from orchestrator.data.samples.kinds import TextPairsConfig

SECOND = "second."
"""Prefix of the inputs of the second stream."""

Arrays = Mapping[str, AnyArray]


def two_streams(first: Arrays, second: Arrays, target_name: str) -> Batch:
    """Return the inputs of both streams; the label of every row is 1, "they belong together"."""
    arrays = {**first, **{f"{SECOND}{name}": array for name, array in second.items()}}
    rows = len(next(iter(first.values())))
    labels = {f"labels.{target_name}": torch.ones(rows, dtype=torch.int64)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | labels


class TextPairs:
    """Both texts for two streams, and ``labels.<name>`` [B] of ones."""

    def __init__(self, examples: Examples, processor: ExampleProcessor, target_name: str) -> None:
        self._examples, self._words = examples, processor.words
        self._target = target_name
        self.parts = (len(examples),)

    @classmethod
    def build(cls, config: TextPairsConfig, inputs: SampleInputs) -> "TextPairs":
        """Build the samples of a split."""
        del config  # it has no options
        return cls(inputs.examples, inputs.example_processor, inputs.targets["clr"])

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of pairs."""
        del epoch
        first = self._words.arrays(self._examples.text(indices), side="right")
        second = self._words.arrays(self._examples.pair(indices), side="right")
        return two_streams(first, second, self._target)
