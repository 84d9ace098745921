"""SpecAugment: hide bands of frequencies and stretches of time in a spectrogram while training.

Park et al. 2019, "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition",
section 2, without time warping (which they found to matter least). What is hidden depends on
(seed, epoch, sample) alone.

Legend: B batch, F frames, M mel bins.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.data.randomness import IntArray, Purpose, Words, draw, uniform

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpecAugment:
    """How much is hidden; the defaults are the policy LD of table 1.

    Attributes:
        frequency_masks: Bands that are hidden.
        frequency_width: Most mel bins of a band.
        time_masks: Stretches that are hidden.
        time_width: Most frames of a stretch.
        time_share: Most of a recording that one stretch covers.
    """

    frequency_masks: int = 2
    frequency_width: int = 27
    time_masks: int = 2
    time_width: int = 100
    time_share: float = 1.0

    def __call__(
        self,
        features: Features,
        lengths: IntArray,
        samples: IntArray,
        epoch: int | IntArray,
        seed: int,
    ) -> Features:
        """Return a copy with hidden parts set to the recording's mean.

        Args:
            features: [B, F, M].
            lengths: Real frames of each recording, [B].
            samples: Index of each recording in the data set, [B].
            epoch: Epoch of all recordings, or of each [B].
            seed: Seed of the job.
        """
        result = features.copy()
        count = self.frequency_masks + self.time_masks
        if not count:
            return result
        width, start, _, _ = draw(seed, Purpose.SPECTROGRAM, epoch, samples, count)
        bins = features.shape[2]
        for row, length in enumerate(lengths):
            mean = features[row, :length].mean() if length else 0.0
            for first, last in self._spans(width[row], start[row], bins, True):
                result[row, :length, first:last] = mean
            for first, last in self._spans(width[row], start[row], int(length), False):
                result[row, first:last] = mean
        return result

    def _spans(
        self, width: Words, start: Words, size: int, frequency: bool
    ) -> list[tuple[int, int]]:
        """Return where the hidden parts of one axis begin and end."""
        middle = self.frequency_masks
        chosen = slice(0, middle) if frequency else slice(middle, None)
        limit = min(self.frequency_width, size)
        if not frequency:
            limit = min(self.time_width, int(self.time_share * size))
        widths = (uniform(width[chosen]) * (limit + 1)).astype(np.int64)
        starts = (uniform(start[chosen]) * (size - widths + 1)).astype(np.int64)
        return [(int(s), int(s + w)) for s, w in zip(starts, widths, strict=True)]
