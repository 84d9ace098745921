"""Random changes of training data: crops of pictures, masked bands and frames of spectrograms.

Crops: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6, as torchvision's
RandomResizedCrop: area and aspect ratio are drawn up to ten times until the crop lies inside the
picture; else the center is taken. Spectrograms: Park et al. 2019, "SpecAugment", section 2, without
time warping (which they found to matter least). Home-made because torchvision and torchaudio draw
from one global generator: here every choice depends on (seed, epoch, sample) alone, so a sample is
the same in any batch, on any worker, and after a restart.

Legend: B batch, A attempts, F frames, M mel bins.
"""

import numpy as np

from orchestrator.arrays import BoolArray, Float32Array, FloatArray, IntArray
from orchestrator.data.media.inputs import CropConfig, SpecAugmentConfig
from orchestrator.data.randomness import Purpose, Words, draw, uniform

ATTEMPTS = 10  # as in torchvision's RandomResizedCrop


def choose_crops(
    config: CropConfig, sizes: IntArray, samples: IntArray, epoch: int | IntArray, seed: int
) -> tuple[IntArray, BoolArray]:
    """Return the crop of each picture, and whether it is flipped.

    Args:
        config: Ranges of area and aspect ratio, probability of a flip.
        sizes: Height and width of each picture, [B, 2].
        samples: Index of each picture in the data set, [B].
        epoch: Epoch of all pictures, or of each [B].
        seed: seed of the job.

    Returns:
        Left, upper, right and lower edge in pixels, int64 [B, 4]; bool [B].
    """
    words = draw(seed, Purpose.IMAGE, epoch, samples, ATTEMPTS + 1)
    areas, ratios, across, down = (uniform(each) for each in words)
    height, width = (sizes[:, axis, None].astype(np.float64) for axis in (0, 1))
    area = height * width * _between(areas[:, :-1], *config.area)
    ratio = np.exp(_between(ratios[:, :-1], *np.log(config.ratio)))
    wide, high = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    small = np.maximum(wide / width, high / height) <= 1
    inside: BoolArray = np.asarray(small & (np.minimum(wide, high) >= 1))
    left = np.floor(across[:, :-1] * (width - wide + 1))
    upper = np.floor(down[:, :-1] * (height - high + 1))
    boxes = np.stack([left, upper, left + wide, upper + high], axis=-1)
    first = inside.argmax(axis=1)[:, None, None]
    chosen = np.take_along_axis(boxes, first, axis=1)[:, 0]
    crops = np.where(inside.any(axis=1, keepdims=True), chosen, _center(sizes, config.ratio))
    return crops.astype(np.int64), areas[:, -1] < config.flip


def _center(sizes: IntArray, ratio: tuple[float, float]) -> FloatArray:
    """Return the largest central crop with an allowed aspect ratio, [B, 4]."""
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    wide = np.minimum(width, np.rint(height * ratio[1])).clip(min=1)
    high = np.minimum(height, np.rint(width / ratio[0])).clip(min=1)
    left, upper = np.floor((width - wide) / 2), np.floor((height - high) / 2)
    return np.stack([left, upper, left + wide, upper + high], axis=-1)


def _between(share: FloatArray, low: float, high: float) -> FloatArray:
    return low + (high - low) * share


def mask_spectrograms(
    config: SpecAugmentConfig,
    features: Float32Array,
    lengths: IntArray,
    samples: IntArray,
    epoch: int | IntArray,
    seed: int,
) -> Float32Array:
    """Return a copy whose masked bands and frames are set to the mean of the recording.

    Args:
        config: Number and maximum width of the masks.
        features: [B, F, M].
        lengths: Real frames of each recording, [B].
        samples: Index of each recording in the data set, [B].
        epoch: Epoch of all recordings, or of each [B].
        seed: seed of the job.
    """
    result = features.copy()
    bands = config.frequency_masks
    if not bands + config.time_masks:
        return result
    width, start, _, _ = draw(seed, Purpose.SPECTROGRAM, epoch, samples, bands + config.time_masks)
    bins = features.shape[2]
    widest = min(config.frequency_width, bins)
    for row, length in enumerate(lengths):
        mean = features[row, :length].mean() if length else 0.0
        for first, last in _spans(width[row, :bands], start[row, :bands], bins, widest):
            result[row, :length, first:last] = mean
        longest = min(config.time_width, int(config.time_share * int(length)))
        for first, last in _spans(width[row, bands:], start[row, bands:], int(length), longest):
            result[row, first:last] = mean
    return result


def _spans(width: Words, start: Words, size: int, limit: int) -> list[tuple[int, int]]:
    """Return begin and end of each mask on an axis of ``size``, at most ``limit`` wide."""
    widths = (uniform(width) * (limit + 1)).astype(np.int64)
    starts = (uniform(start) * (size - widths + 1)).astype(np.int64)
    return [(int(s), int(s + w)) for s, w in zip(starts, widths, strict=True)]
