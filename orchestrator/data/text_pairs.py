"""Two texts that belong together, for vectors of sentences.

Each text has to find its partner among those of the other rows of the batch (in-batch negatives;
Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply", section
4.3).

Shapes: B batch.
"""

from orchestrator.data.example_processor import ExampleProcessor
from orchestrator.data.example_rows import Examples
from orchestrator.data.pairs_of_streams import two_streams
from orchestrator.data.randomness import IntArray
from orchestrator.data.samples import Batch


class TextPairs:
    """Both texts for two streams, and ``labels.<name>`` [B] of ones."""

    def __init__(self, examples: Examples, processor: ExampleProcessor, target_name: str) -> None:
        self._examples, self._words = examples, processor.words
        self._target = target_name
        self.parts = (len(examples),)

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of pairs."""
        del epoch
        first = self._words.arrays(self._examples.text(indices), side="right")
        second = self._words.arrays(self._examples.pair(indices), side="right")
        return two_streams(first, second, self._target)
