"""Inputs of a model that its data must fit. Imports neither torch nor NumPy.

Legend: C channels.
"""

from dataclasses import dataclass
from typing import Literal

SoundKind = Literal["speech2text", "whisper", "wav2vec2"]


@dataclass(frozen=True, slots=True)
class PictureInput:
    """Pictures in square patches.

    Attributes:
        side: Height and width in pixels.
        channels: C, 3 or 1.
        patch_size: Height and width of a patch in pixels.
        tokens: Positions before the patches (class token).
    """

    side: int
    channels: int
    patch_size: int
    tokens: int = 0

    @property
    def grid(self) -> int:
        """Patches in a row and in a column."""
        return self.side // self.patch_size

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.grid**2


@dataclass(frozen=True, slots=True)
class SoundInput:
    """Recordings, shortened by strided convolutions.

    Attributes:
        kind: Which features are read.
        mel_bins: Values of a frame (not of wav2vec 2.0).
        kernels: Frames or samples that each convolution reads.
        strides: Frames or samples that each convolution advances.
        most_positions: Positions that the model has room for.
    """

    kind: SoundKind
    mel_bins: int
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    most_positions: int

    def positions(self, length: int) -> int:
        """Return how many positions frames (or samples of wav2vec 2.0) become."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            around = 0 if self.kind == "wav2vec2" else 2 * (kernel // 2)
            length = (length + around - kernel) // stride + 1
        return max(length, 0)


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """Inputs of a model other than tokens.

    Attributes:
        picture: Its pictures; None: it reads none.
        sound: Its recordings; None: it reads none.
        text_first: Whether the first of two streams reads the text.
        codes: Size of its visual vocabulary; 0: it has none.
        aligned: Whether each token needs a position of the sound (ctc).
    """

    picture: PictureInput | None = None
    sound: SoundInput | None = None
    text_first: bool = True
    codes: int = 0
    aligned: bool = False
