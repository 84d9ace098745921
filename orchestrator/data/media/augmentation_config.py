"""Options of the random changes of training pictures and sounds. Imports no NumPy."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from orchestrator.config import StrictModel
from orchestrator.errors import Problem

Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PictureFamily = Literal["vit", "deit", "beit", "clip", "siglip", "vilt"]


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
