"""Log-mel spectrograms as Kaldi (Speech2Text) and as Whisper compute them, in NumPy.

Both cut the sound into overlapping frames, take the power spectrum of each, sum it up in triangular
bands that are equally wide on a mel scale, and take the logarithm. They differ in everything else.

Legend: N samples, F frames, W samples of a frame, P frequencies, M mel bins.

SpecAugment: hide bands of frequencies and stretches of time in a spectrogram while training.

Park et al. 2019, "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition",
section 2, without time warping (which they found to matter least). What is hidden depends on
(seed, epoch, sample) alone.

Legend: B batch, F frames, M mel bins.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array, FloatArray

KALDI_FFT = 512
KALDI_LOWEST_HZ = 20.0
PREEMPHASIS = 0.97
POVEY = 0.85
"""Exponent that makes Povey's window of Hann's."""
SIXTEEN_BITS = 2**15
"""Kaldi's sound is in whole numbers of 16 bits."""
KALDI_FLOOR = float(np.finfo(np.float32).eps)
WHISPER_FFT = 400
WHISPER_HIGHEST_HZ = 8000.0
WHISPER_FLOOR = 1e-10
WHISPER_RANGE = 8.0
"""Decades below the loudest value at which a Whisper spectrogram ends."""


def kaldi_fbank(sound: npt.ArrayLike, rate: int = 16000, mel_bins: int = 80) -> Float32Array:
    """Return what ``compute-fbank-feats`` of Kaldi does by default, without dither.

    Frames of 25 ms every 10 ms without padding, mean removed, pre-emphasis 0.97, Povey's window,
    bands from 20 Hz to half the rate, triangular on Kaldi's mel scale, natural logarithm.

    Args:
        sound: [N], between -1 and 1.
        rate: Samples per second.
        mel_bins: M.

    Returns:
        [F, M]; F is 0 for less than one frame.
    """
    width, hop = rate * 25 // 1000, rate * 10 // 1000
    frames = _frames(np.asarray(sound, dtype=np.float64) * SIXTEEN_BITS, width, hop)
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - PREEMPHASIS * before) * np.hanning(width) ** POVEY
    size = max(KALDI_FFT, 1 << (width - 1).bit_length())
    energy = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2 @ kaldi_bands(rate, mel_bins, size)
    return np.log(np.maximum(energy, KALDI_FLOOR)).astype(np.float32)


def kaldi_frames(length: int, rate: int) -> int:
    """Return how many frames ``kaldi_fbank`` makes of so many samples."""
    width, hop = rate * 25 // 1000, rate * 10 // 1000
    return max((length - width) // hop + 1, 0)


def whisper_log_mel(
    sound: npt.ArrayLike, rate: int = 16000, mel_bins: int = 80, hop: int = 160
) -> Float32Array:
    """Return the features of Whisper (Radford et al. 2022, section 2.2).

    Centred frames of 400 samples, the ends mirrored; Hann's window; bands of equal area on Slaney's
    mel scale; decadic logarithm, at most 8 below the loudest value, shifted and scaled.

    Args:
        sound: [N] with N > 200, between -1 and 1, padded to the model's length.
        rate: Samples per second.
        mel_bins: M.
        hop: Samples from one frame to the next.

    Returns:
        [F, M] with F = N // hop.
    """
    padded = np.pad(np.asarray(sound, dtype=np.float64), WHISPER_FFT // 2, mode="reflect")
    frames = _frames(padded, WHISPER_FFT, hop)[:-1] * np.hanning(WHISPER_FFT + 1)[:-1]
    energy = np.abs(np.fft.rfft(frames, axis=1)) ** 2 @ slaney_bands(rate, mel_bins)
    decades = np.log10(np.maximum(energy, WHISPER_FLOOR))
    limited = np.maximum(decades, decades.max() - WHISPER_RANGE)
    features: Float32Array = ((limited + 4.0) / 4.0).astype(np.float32)
    return features


@lru_cache(maxsize=8)
def kaldi_bands(rate: int, mel_bins: int, size: int = KALDI_FFT) -> FloatArray:
    """Return the weight of each frequency in each band, [P, M]: triangles on the mel axis."""
    edges = np.linspace(_kaldi_mel(KALDI_LOWEST_HZ), _kaldi_mel(rate // 2), mel_bins + 2)
    frequencies = np.arange(size // 2 + 1) * rate / size
    return _triangles(_kaldi_mel(frequencies), edges)


@lru_cache(maxsize=8)
def slaney_bands(rate: int, mel_bins: int) -> FloatArray:
    """Return the weight of each frequency in each band, [P, M]: triangles in Hz, of equal area."""
    edges = _slaney_hz(np.linspace(0.0, _slaney_mel(WHISPER_HIGHEST_HZ), mel_bins + 2))
    frequencies = np.linspace(0, rate // 2, WHISPER_FFT // 2 + 1)
    return _triangles(frequencies, edges) * (2.0 / (edges[2:] - edges[:-2]))


def _frames(sound: FloatArray, width: int, hop: int) -> FloatArray:
    """Return [F, W], frames that lie wholly in the sound."""
    if len(sound) < width:
        return np.zeros((0, width))
    return np.lib.stride_tricks.sliding_window_view(sound, width)[::hop]


def _triangles(places: FloatArray, edges: FloatArray) -> FloatArray:
    """Return [P, M]: band m rises from edge m to m + 1 and falls to edge m + 2."""
    steps = np.diff(edges)
    distance = edges[None, :] - places[:, None]
    rising, falling = -distance[:, :-2] / steps[:-1], distance[:, 2:] / steps[1:]
    result: FloatArray = np.maximum(0.0, np.minimum(rising, falling))
    return result


def _kaldi_mel(hertz: npt.ArrayLike) -> FloatArray:
    mel: FloatArray = 1127.0 * np.log(1.0 + np.asarray(hertz, dtype=np.float64) / 700.0)
    return mel


# Slaney's scale (Auditory Toolbox, 1998): linear to 1000 Hz, logarithmic above.
_LINEAR_HZ, _BEND_HZ = 200.0 / 3.0, 1000.0
_BEND_MEL = _BEND_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0


def _slaney_mel(hertz: float) -> float:
    if hertz < _BEND_HZ:
        return hertz / _LINEAR_HZ
    return float(_BEND_MEL + np.log(hertz / _BEND_HZ) / _LOG_STEP)


def _slaney_hz(mel: FloatArray) -> FloatArray:
    above = _BEND_HZ * np.exp(_LOG_STEP * (mel - _BEND_MEL))
    result: FloatArray = np.where(mel < _BEND_MEL, mel * _LINEAR_HZ, above)
    return result
