"""A sample kind in a package of its own: one masked window per block.

As in MASS (Song et al. 2019, section 3.1), a run of consecutive tokens is predicted; here by an
encoder with a target ``mlm``. Legend: B batch, S block size.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from orchestrator.arrays import IntArray
from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.samples.base import Batch, SampleInputs, block_batch
from orchestrator.data.samples.kinds import SampleConfig
from orchestrator.data.samples.masking import IGNORED


class WindowSamples:
    """Blocks with one masked window: ``labels.<name>`` [B, S]."""

    class Config(SampleConfig):
        """Blocks with one masked window (MASS)."""

        wants = ("mlm",)
        packs = True
        type: Literal["window"] = "window"
        share: Annotated[float, Field(gt=0, le=1)] = 0.5
        """Share of the block that the window covers."""

    def __init__(self, config: Config, inputs: SampleInputs) -> None:
        self._blocks, self.parts = inputs.blocks, inputs.blocks.parts
        self._width = max(1, round(config.share * inputs.blocks.block_size))
        self._inputs = inputs
        roles = self._roles = inputs.blocks.roles
        self._mask = roles.require("mask", "masked windows")
        self._ordinary = roles.ordinary(inputs.tokenizer.vocab_size)

    @classmethod
    def build(cls, config: Config, inputs: SampleInputs) -> "WindowSamples":
        """Build the samples of a split."""
        return cls(config, inputs)

    def __len__(self) -> int:
        return len(self._blocks)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch; a window depends on (seed, epoch, index) alone."""
        ids = self._blocks.rows(indices)
        luck = uniform(draw(self._inputs.seed, Purpose.MASK, epoch, indices, 1)[0])
        first = (luck * (ids.shape[1] - self._width + 1)).astype(np.int64)
        offset = np.arange(ids.shape[1]) - first
        chosen = (offset >= 0) & (offset < self._width) & self._ordinary[ids]
        labels = {self._inputs.targets["mlm"]: np.where(chosen, ids, IGNORED)}
        hidden = np.where(chosen, self._mask, ids)
        return block_batch(hidden, ids, labels, self._inputs.packing, self._roles)
