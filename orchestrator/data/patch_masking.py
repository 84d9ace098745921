"""Which patches of a picture are hidden: blocks of them.

Bao et al. 2022, "BEiT", algorithm 1: blocks of at least 16 patches with a random aspect ratio
between 0.3 and 1 / 0.3 are hidden until 40 % of the patches are. As in BEiT's code, a block that
would hide too many is drawn again. Deviations: the smallest block is in proportion to the picture
(16 of 196 patches), and when the attempts are used up, single patches make up what is missing, so
that every picture has the same number of labels. What is drawn depends on (seed, epoch, sample)
alone.

Legend: B batch, P patches.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.data.randomness import IntArray, Purpose, draw, uniform

BoolArray = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ATTEMPTS = 32
NARROWEST = 0.3
SMALLEST_SHARE = 16 / 196


@dataclass(frozen=True, slots=True)
class BlockMasking:
    """The rule.

    Attributes:
        grid: patches in a row and in a column.
        share: of the patches that are hidden.
        smallest: fewest patches of a block; None: in BEiT's proportion.
    """

    grid: int
    share: float = 0.4
    smallest: int | None = None

    @property
    def count(self) -> int:
        """Hidden patches of a picture: the rounded share, at least one."""
        return max(1, round(self.share * self.grid**2))

    def choose(self, samples: IntArray, epoch: int | IntArray, seed: int) -> BoolArray:
        """Return whether each patch is hidden.

        Args:
            samples: index of each picture in the data set [B].
            epoch: epoch of all pictures, or of each [B].
            seed: seed of the job.

        Returns:
            bool [B, P].
        """
        words = draw(seed, Purpose.PATCHES, epoch, samples, ATTEMPTS + self.grid**2)
        luck = np.stack([uniform(word) for word in words])  # [4, B, ATTEMPTS + P]
        return np.stack([self._one(luck[:, row]) for row in range(len(samples))])

    def _one(self, luck: Floats) -> BoolArray:
        hidden = np.zeros((self.grid, self.grid), dtype=np.bool_)
        usual = max(1, round(SMALLEST_SHARE * self.grid**2))
        smallest = min(self.smallest or usual, self.count)
        for area, ratio, down, across in luck[:, :ATTEMPTS].T:
            room = self.count - int(hidden.sum())
            if room < 1:
                break
            size = smallest + area * max(room - smallest, 0)
            shape = np.exp((2 * ratio - 1) * -np.log(NARROWEST))
            height, width = round(np.sqrt(size * shape)), round(np.sqrt(size / shape))
            if not (0 < height <= self.grid and 0 < width <= self.grid):
                continue
            top = int(down * (self.grid - height + 1))
            left = int(across * (self.grid - width + 1))
            block = hidden[top : top + height, left : left + width]
            if block.size - block.sum() <= room:
                block[...] = True
        return self._completed(hidden.ravel(), luck[0, ATTEMPTS:])

    def _completed(self, hidden: BoolArray, luck: Floats) -> BoolArray:
        """Hide single patches until there are enough."""
        missing = self.count - int(hidden.sum())
        free = np.argsort(np.where(hidden, 2.0, luck), kind="stable")[:missing]
        hidden[free] = True
        return hidden
