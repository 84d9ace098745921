"""A random part of a picture, perhaps mirrored: the usual augmentation of image classifiers.

Szegedy et al. 2015, "Going Deeper with Convolutions", section 6, as torchvision's
RandomResizedCrop: area and aspect ratio are drawn up to ten times until the part lies inside the
picture; else the middle is taken. What is drawn depends on (seed, epoch, sample) alone.

Legend: B batch, A attempts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.data.randomness import Purpose, draw, uniform

ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class CropAndFlip:
    """How parts of pictures are chosen.

    Attributes:
        area: Smallest and largest share of the picture's area.
        ratio: Smallest and largest width / height; evenly distributed in its logarithm.
        flip: Probability of mirroring left and right.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def choose(
        self, sizes: IntArray, samples: IntArray, epoch: int | IntArray, seed: int
    ) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Return the part of each picture, and whether it is mirrored.

        Args:
            sizes: Height and width of each picture, [B, 2].
            samples: Index of each picture in the data set, [B].
            epoch: Epoch of all pictures, or of each [B].
            seed: Seed of the job.

        Returns:
            Left, upper, right and lower edge in pixels, int64 [B, 4]; bool [B].
        """
        words = draw(seed, Purpose.IMAGE, epoch, samples, ATTEMPTS + 1)
        areas, ratios, across, down = (uniform(each) for each in words)
        height, width = (sizes[:, axis, None].astype(np.float64) for axis in (0, 1))
        area = height * width * _between(areas[:, :-1], *self.area)
        ratio = np.exp(_between(ratios[:, :-1], *np.log(self.ratio)))
        wide, high = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        small = np.maximum(wide / width, high / height) <= 1
        inside: npt.NDArray[np.bool_] = np.asarray(small & (np.minimum(wide, high) >= 1))
        left = np.floor(across[:, :-1] * (width - wide + 1))
        upper = np.floor(down[:, :-1] * (height - high + 1))
        boxes = np.stack([left, upper, left + wide, upper + high], axis=-1)
        first = inside.argmax(axis=1)[:, None, None]
        chosen = np.take_along_axis(boxes, first, axis=1)[:, 0]
        parts = np.where(inside.any(axis=1, keepdims=True), chosen, self._middle(sizes))
        return parts.astype(np.int64), areas[:, -1] < self.flip

    def _middle(self, sizes: IntArray) -> FloatArray:
        """Return the largest central part with an allowed ratio, [B, 4]."""
        height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
        wide = np.minimum(width, np.rint(height * self.ratio[1])).clip(min=1)
        high = np.minimum(height, np.rint(width / self.ratio[0])).clip(min=1)
        left, upper = np.floor((width - wide) / 2), np.floor((height - high) / 2)
        return np.stack([left, upper, left + wide, upper + high], axis=-1)


def _between(share: FloatArray, low: float, high: float) -> FloatArray:
    return low + (high - low) * share
