"""Pictures and sounds that a model reads, and the random changes of them in training.

These are the values that data must fit and the options of jobs. Imports neither torch nor NumPy.

Legend: C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from orchestrator.config import StrictModel
from orchestrator.errors import Problem

SoundKind = Literal["speech2text", "whisper", "wav2vec2"]
Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PictureFamily = Literal["vit", "deit", "beit", "clip", "siglip", "vilt"]


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


class CropConfig(StrictModel):
    """A random crop of each training picture, possibly mirrored."""

    area: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the picture's area (BEiT, ViT: 0.08; CLIP: 0.9)."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest width / height; its logarithm is uniformly distributed."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip; 0 where left and right have a meaning."""

    def problems(self) -> Iterable[Problem]:
        """Yield a problem for each range whose ends are swapped."""
        for name in ("area", "ratio"):
            least, most = getattr(self, name)
            if least > most:
                yield Problem(name, f"{least} is more than {most}. Give the smaller one first.")


class SpecAugmentConfig(StrictModel):
    """Masked bands and frames of training spectrograms (SpecAugment; policy LD of its table 1)."""

    frequency_masks: NonNegativeInt = 2
    """Number of masked frequency bands."""
    frequency_width: NonNegativeInt = 27
    """Maximum width of a band in mel bins."""
    time_masks: NonNegativeInt = 2
    """Number of masked runs of frames."""
    time_width: NonNegativeInt = 100
    """Maximum length of a run in frames."""
    time_share: Share = 1.0
    """Maximum share of a recording that one run covers."""
