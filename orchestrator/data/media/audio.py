"""Sound to model input: reading, resampling, and the features of three families.

Settings are stored as ``preprocessor_config.json`` in the form of transformers' feature extractors,
which open what is written here.

Legend: B batch, N samples, F frames, M mel bins.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array
from orchestrator.data.media.spectrograms import kaldi_fbank, whisper_log_mel
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = "preprocessor_config.json"
Kind = Literal["speech2text", "whisper", "wav2vec2"]
CLASSES: dict[str, Kind] = {
    "Speech2TextFeatureExtractor": "speech2text",
    "WhisperFeatureExtractor": "whisper",
    "Wav2Vec2FeatureExtractor": "wav2vec2",
}
"""Class of transformers → kind of features."""
RATE = 16000
VARIANCE_FLOOR = 1e-7
"""Added to the variance of a recording (wav2vec 2.0)."""
FIXED = {"dither": 0.0, "padding_side": "right", "padding_value": 0.0, "n_fft": 400}
"""Options of their feature extractors that have one supported value."""

Arrays = dict[str, npt.NDArray[Any]]


def read_sound(
    path: str | Path | BinaryIO, rate: int = RATE, *, resample: bool = False
) -> Float32Array:
    """Read a WAV, FLAC or other file that ``soundfile`` can read, as one channel.

    Args:
        path: The file, or its content.
        rate: Required samples per second.
        resample: Convert other rates; otherwise they are refused.

    Returns:
        [N], between -1 and 1; several channels are averaged.

    Raises:
        InputError: The file is missing, damaged or empty, or has another rate.
    """
    import soundfile  # type: ignore[import-untyped]

    try:
        file = str(path) if isinstance(path, Path) else path
        sound, found = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as sound: {error}") from error
    if not len(sound):
        raise InputError(f"{path} contains no sound.")
    mono: Float32Array = sound.mean(axis=1, dtype=np.float32)
    if found == rate:
        return mono
    if not resample:
        raise InputError(
            f"{path} has {found} samples per second, the model reads {rate}. Convert the file, or "
            "allow resampling."
        )
    return resampled(mono, found, rate)


def resampled(sound: Float32Array, before: int, after: int) -> Float32Array:
    """Return a sound [N] at another rate, by polyphase filtering."""
    from scipy.signal import resample_poly

    common = gcd(before, after)
    converted: Float32Array = resample_poly(sound, after // common, before // common)
    return converted.astype(np.float32)


@dataclass(frozen=True, slots=True)
class AudioProcessor:
    """Turns recordings into a batch.

    Attributes:
        kind: ``speech2text``: Kaldi's filter bank, normalized per recording; ``whisper``: log-mel
            of a fixed length; ``wav2vec2``: the waveform, normalized.
        mel_bins: M.
        rate: Samples per second.
        seconds: Whisper: length that recordings are padded or cut to.
        hop: Whisper: samples from one frame to the next.
        normalize_means: Speech2Text: subtract the mean of each bin of a recording.
        normalize_vars: Speech2Text: divide by the standard deviation of each bin.
        normalize: wav2vec 2.0: bring a recording to mean 0 and variance 1.
        mask: wav2vec 2.0: pass a mask of the padding; some checkpoints were trained without.
    """

    kind: Kind = "speech2text"
    mel_bins: int = 80
    rate: int = RATE
    seconds: int = 30
    hop: int = 160
    normalize_means: bool = True
    normalize_vars: bool = True
    normalize: bool = True
    mask: bool = False

    @classmethod
    def load(cls, folder: str | Path) -> "AudioProcessor":
        """Open what `save` or a feature extractor of transformers wrote.

        Raises:
            InputError: There are no settings, or they are of another kind.
        """
        path = Path(folder) / SETTINGS
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            name = values.get("feature_extractor_type")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path} cannot be read: {error}. Give a model's folder.") from error
        if name not in CLASSES:
            allowed = ", ".join(CLASSES)
            raise InputError(f"{path}: feature_extractor_type is {name!r}; supported: {allowed}.")
        for key, value in FIXED.items():
            if values.get(key, value) != value:
                raise InputError(f"{path}: {key} is {values[key]!r}; only {value!r} is supported.")
        return cls(**_from_theirs(CLASSES[name], values))

    def save(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json`` into an existing or new folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        name = next(name for name, kind in CLASSES.items() if kind == self.kind)
        values = {
            "feature_extractor_type": name,
            "sampling_rate": self.rate,
            **self._to_theirs(),
        }
        values |= {"padding_side": "right", "padding_value": 0.0}
        text = json.dumps(values, indent=2) + "\n"
        (target / SETTINGS).write_text(text, encoding="utf-8")

    def _to_theirs(self) -> dict[str, Any]:
        if self.kind == "wav2vec2":
            values = {"do_normalize": self.normalize, "return_attention_mask": self.mask}
            return values | {"feature_size": 1}
        if self.kind == "whisper":
            sizes = {"hop_length": self.hop, "chunk_length": self.seconds}
            return sizes | {"feature_size": self.mel_bins, "n_fft": 400, "dither": 0.0}
        norms = {"normalize_means": self.normalize_means, "normalize_vars": self.normalize_vars}
        sizes = {"feature_size": self.mel_bins, "num_mel_bins": self.mel_bins}
        return norms | sizes | {"do_ceptral_normalize": True, "dither": 0.0}

    def arrays(self, sounds: Sequence[npt.ArrayLike]) -> Arrays:
        """Return a batch as arrays.

        Args:
            sounds: B recordings [N] at the processor's rate, between -1 and 1.

        Returns:
            Speech2Text: ``input_features`` float32 [B, F, M] and ``attention_mask`` int64 [B, F];
            Whisper: ``input_features`` alone (transformers has [B, M, F]); wav2vec 2.0:
            ``input_values`` float32 [B, N], and ``attention_mask`` [B, N] if ``mask``.

        Raises:
            InputError: There is no recording, or one is too short or has several channels.
        """
        rows = [np.asarray(sound, dtype=np.float32) for sound in sounds]
        wrong = [list(row.shape) for row in rows if row.ndim != 1]
        if wrong or not rows:
            raise InputError(f"recordings must be lists of samples, one channel; found {wrong}.")
        if self.kind == "whisper":
            return {"input_features": np.stack([self._whisper(row) for row in rows])}
        if self.kind == "wav2vec2":
            values, mask = _padded([self._normalized(row) for row in rows])
            return {"input_values": values} | ({"attention_mask": mask} if self.mask else {})
        features, mask = _padded([self._filter_bank(row) for row in rows])
        return {"input_features": features, "attention_mask": mask}

    def __call__(self, sounds: Sequence[npt.ArrayLike]) -> "dict[str, Tensor]":
        """Return `arrays` as tensors."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays(sounds).items()}

    def _filter_bank(self, sound: Float32Array) -> Float32Array:
        features = kaldi_fbank(sound, self.rate, self.mel_bins)
        if not len(features):
            raise InputError(f"a recording of {len(sound)} samples is shorter than one frame.")
        if self.normalize_means:
            features = features - features.mean(axis=0)
        if self.normalize_vars:
            features = features / np.maximum(features.std(axis=0), np.finfo(np.float32).tiny)
        return features

    def _whisper(self, sound: Float32Array) -> Float32Array:
        length = self.seconds * self.rate
        padded = np.pad(sound[:length], (0, max(length - len(sound), 0)))
        return whisper_log_mel(padded, self.rate, self.mel_bins, self.hop)

    def _normalized(self, sound: Float32Array) -> Float32Array:
        if not len(sound):
            raise InputError("a recording has no samples.")
        if not self.normalize:
            return sound
        result: Float32Array = (sound - sound.mean()) / np.sqrt(sound.var() + VARIANCE_FLOOR)
        return result


def _from_theirs(kind: Kind, values: dict[str, Any]) -> dict[str, Any]:
    """Translate the settings of transformers."""
    names = {
        "speech2text": {
            "num_mel_bins": "mel_bins",
            "normalize_means": "normalize_means",
            "normalize_vars": "normalize_vars",
        },
        "whisper": {"feature_size": "mel_bins", "chunk_length": "seconds", "hop_length": "hop"},
        "wav2vec2": {"do_normalize": "normalize", "return_attention_mask": "mask"},
    }[kind]
    ours = {own: values[theirs] for theirs, own in names.items() if theirs in values}
    if kind == "speech2text" and not values.get("do_ceptral_normalize", True):
        ours |= {"normalize_means": False, "normalize_vars": False}
    return {"kind": kind, "rate": values.get("sampling_rate", RATE), **ours}


def _padded(rows: Sequence[Float32Array]) -> tuple[Float32Array, npt.NDArray[np.int64]]:
    """Return rows as one array, zeros after the shorter ones, and the mask of real values."""
    longest = max(len(row) for row in rows)
    values = np.zeros((len(rows), longest, *rows[0].shape[1:]), dtype=np.float32)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        values[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return values, mask
