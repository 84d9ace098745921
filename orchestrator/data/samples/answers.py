"""Questions with windows of their contexts, and the places of the answers.

Each window of a long context is a sample, as in BERT's ``run_squad`` (Devlin et al. 2019, section
4.2). A window that does not have the whole answer points at its first token, as a question without
an answer does: so the logits of the right window exceed those of the others.

Shapes: B batch, S length, M windows of all rows.
"""

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.processors.readings import place_of, read_windows
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.base import Batch
from orchestrator.data.spec import OVERLAP
from orchestrator.errors import InputError

NOWHERE = (0, 0)
"""Place that a window without the answer points to."""


class AnswerSamples:
    """Windows, tokenized once: ``labels.<name>`` [B, 2], places of the first and last token."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str,
        max_length: int | None = None,
        *,
        overlap: int = OVERLAP,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: questions in ``texts``, contexts in ``pairs``, answers in ``labels``; of several
                answers the first is learned.
            processor: tokenizer.
            target_name: target that is trained.
            max_length: limit of a window in tokens; None takes the processor's.
            overlap: tokens that neighboring windows share.

        Raises:
            InputError: there are no rows, no contexts or no tokenizer.
        """
        require_pairs(rows)
        if processor is None or not len(rows):
            raise InputError("questions need rows and a tokenizer.")
        found = read_windows(processor, rows.texts, rows.pairs or [], max_length, overlap)
        self._arrays = processor.stack([w for windows in found for w, _ in windows], "right")
        self._lengths = self._arrays["attention_mask"].sum(axis=1)
        places = [
            None if not answers else place_of(reading, start, start + len(text))
            for answers, windows in zip(rows.labels, found, strict=True)
            for text, start in (answers[:1] or (("", 0),))
            for _, reading in windows
        ]
        self._places = np.asarray([place or NOWHERE for place in places], dtype=np.int64)
        self._name, self.parts = f"labels.{target_name}", (len(places),)

    def __len__(self) -> int:
        return len(self._places)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest window."""
        del epoch
        longest = int(self._lengths[indices].max())
        cut = {name: array[indices, :longest] for name, array in self._arrays.items()}
        cut[self._name] = self._places[indices]
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in cut.items()}
