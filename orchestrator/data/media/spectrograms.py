"""Log-mel spectrograms as Kaldi (Speech2Text) and as Whisper compute them.

Frames, filter banks and logarithms are those of ``transformers.audio_utils``, imported at the first
use; the settings of both families stand here.

Legend: N samples, F frames, P frequencies, M mel bins.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array, FloatArray

KALDI_FFT = 512
KALDI_MIN_HZ = 20.0
PREEMPHASIS = 0.97
INT16_SCALE = 2**15
"""Kaldi computes with 16-bit integer samples; ours are between -1 and 1."""
KALDI_FLOOR = float(np.finfo(np.float32).eps)
WHISPER_FFT = 400
WHISPER_MAX_HZ = 8000.0
WHISPER_RANGE = 8.0
"""Dynamic range of a Whisper spectrogram in decades, below its maximum."""


def kaldi_fbank(sound: npt.ArrayLike, rate: int = 16000, mel_bins: int = 80) -> Float32Array:
    """Return the features of Kaldi's ``compute-fbank-feats`` with its defaults, without dither.

    Frames of 25 ms every 10 ms without padding, mean removed, pre-emphasis 0.97, Povey's window,
    bands from 20 Hz to half the rate, triangular on Kaldi's mel scale, natural logarithm.

    Args:
        sound: [N], between -1 and 1.
        rate: Samples per second.
        mel_bins: M.

    Returns:
        [F, M]; F is 0 for less than one frame.
    """
    from transformers.audio_utils import spectrogram, window_function

    samples = np.asarray(sound, dtype=np.float64) * INT16_SCALE
    if not kaldi_frames(len(samples), rate):
        return np.zeros((0, mel_bins), dtype=np.float32)
    width, hop = rate * 25 // 1000, rate * 10 // 1000
    size = max(KALDI_FFT, 1 << (width - 1).bit_length())
    bands: Float32Array = spectrogram(
        samples,
        window_function(width, "povey", periodic=False),
        frame_length=width,
        hop_length=hop,
        fft_length=size,
        power=2.0,
        center=False,
        preemphasis=PREEMPHASIS,
        mel_filters=kaldi_bands(rate, mel_bins, size),
        log_mel="log",
        mel_floor=KALDI_FLOOR,
        remove_dc_offset=True,
    )
    return np.ascontiguousarray(bands.T)


def kaldi_frames(length: int, rate: int) -> int:
    """Return the number of frames that ``kaldi_fbank`` makes of ``length`` samples."""
    width, hop = rate * 25 // 1000, rate * 10 // 1000
    return max((length - width) // hop + 1, 0)


def whisper_log_mel(
    sound: npt.ArrayLike, rate: int = 16000, mel_bins: int = 80, hop: int = 160
) -> Float32Array:
    """Return the features of Whisper (Radford et al. 2022, section 2.2).

    Centered frames of 400 samples, the ends mirrored; Hann's window; bands of equal area on
    Slaney's mel scale; decadic logarithm, at most 8 below the maximum, shifted and scaled.

    Args:
        sound: [N] with N > 200, between -1 and 1, padded to the model's length.
        rate: Samples per second.
        mel_bins: M.
        hop: Samples from one frame to the next.

    Returns:
        [F, M] with F = N // hop.
    """
    from transformers.audio_utils import spectrogram, window_function

    decades = spectrogram(
        np.asarray(sound, dtype=np.float64),
        window_function(WHISPER_FFT, "hann"),
        frame_length=WHISPER_FFT,
        hop_length=hop,
        power=2.0,
        mel_filters=slaney_bands(rate, mel_bins),
        log_mel="log10",
    )[:, :-1]  # Whisper drops the last frame
    limited = np.maximum(decades, decades.max() - WHISPER_RANGE)
    features: Float32Array = ((limited.T + 4.0) / 4.0).astype(np.float32)
    return features


@lru_cache(maxsize=8)
def kaldi_bands(rate: int, mel_bins: int, size: int = KALDI_FFT) -> FloatArray:
    """Return the weight of each frequency in each band, [P, M]: triangles on the mel axis."""
    from transformers.audio_utils import mel_filter_bank

    bands: FloatArray = mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=mel_bins,
        min_frequency=KALDI_MIN_HZ,
        max_frequency=rate // 2,
        sampling_rate=rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return bands


@lru_cache(maxsize=8)
def slaney_bands(rate: int, mel_bins: int) -> FloatArray:
    """Return the weight of each frequency in each band, [P, M]: triangles in Hz, of equal area."""
    from transformers.audio_utils import mel_filter_bank

    bands: FloatArray = mel_filter_bank(
        num_frequency_bins=WHISPER_FFT // 2 + 1,
        num_mel_filters=mel_bins,
        min_frequency=0.0,
        max_frequency=WHISPER_MAX_HZ,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return bands
