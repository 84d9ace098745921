"""Options of the embedding parts for sound. Imports without torch."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig, embeddings
from orchestrator.modeling.encoders.block_options import Rate

_PACKAGE = "orchestrator.modeling.embeddings"

Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""One number for each convolution."""


def frames_per_position(strides: Sequence[int]) -> list[int]:
    """Return how many frames each convolution computes for one position at the end."""
    return [prod(strides[index + 1 :]) for index in range(len(strides))]


@embeddings.register(f"{_PACKAGE}.speech:SpeechEmbedding")
class SpeechConfig(EmbeddingConfig):
    """Shorten a log-mel spectrogram (`input_features`) by strided convolutions."""

    reads_content: ClassVar[bool] = True
    type: Literal["speech"] = "speech"
    mel_bins: PositiveInt = 80
    """Values of a frame."""
    kernels: Sizes = (5, 5)
    """Frames that each convolution reads; odd."""
    strides: Sizes = (2, 2)
    """Frames that each convolution advances (Whisper: 1, 2)."""
    channels: PositiveInt | None = None
    """Values that all convolutions but the last compute, before glu halves them; null: as many as
    the last (hidden_size, twice that with glu)."""
    activation: Literal["glu", "gelu"] = "glu"
    """After each convolution: one half gates the other (Speech2Text), or exact GELU (Whisper)."""
    scale: bool = False
    """Multiply by the square root of the hidden size (Speech2Text)."""

    def outputs(self, dimensions: Dimensions) -> list[int]:
        """Return how many values each convolution computes for a frame, before glu halves them."""
        last = dimensions.hidden_size * (2 if self.activation == "glu" else 1)
        return [self.channels or last] * (len(self.kernels) - 1) + [last]

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: both sides of each activation."""
        frames = frames_per_position(self.strides)
        outputs = self.outputs(dimensions)
        share = 1.5 if self.activation == "glu" else 2.0
        values = sum(share * size * count for size, count in zip(outputs, frames, strict=True))
        return round(values) + self.mel_bins * prod(self.strides)

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Each convolution has a kernel and a stride."""
        del dimensions
        if len(self.kernels) != len(self.strides):
            message = f"has {len(self.strides)} numbers, kernels {len(self.kernels)}."
            yield Problem("strides", f"{message} Give one for each convolution.")
        even = [str(kernel) for kernel in self.kernels if kernel % 2 == 0]
        if even:
            yield Problem("kernels", f"{', '.join(even)}: must be odd, to be centred on a frame.")
        if self.activation == "glu" and (self.channels or 2) % 2:
            yield Problem("channels", f"{self.channels} is odd; glu halves it. Use an even one.")


@embeddings.register(f"{_PACKAGE}.speech:WaveformEmbedding")
class WaveformConfig(EmbeddingConfig):
    """Turn raw sound (`input_values`) into frames by strided convolutions (wav2vec 2.0)."""

    reads_content: ClassVar[bool] = True
    type: Literal["waveform"] = "waveform"
    channels: Sizes = (512, 512, 512, 512, 512, 512, 512)
    """Values that each convolution computes."""
    kernels: Sizes = (10, 3, 3, 3, 3, 2, 2)
    """Samples or frames that each convolution reads."""
    strides: Sizes = (5, 2, 2, 2, 2, 2, 2)
    """Samples or frames that each convolution advances."""
    norm: Literal["group", "layer"] = "group"
    """Normalise each channel over time after the first convolution (wav2vec 2.0 base), or each
    frame after every convolution (large)."""
    bias: bool = False
    """Give the convolutions biases."""
    norm_eps: float = Field(default=1e-5, gt=0.0)
    """Added to the variance in the norm before the projection."""
    dropout: Rate = 0.0
    """Dropout rate on the projected frames."""
    mask_vector: bool = False
    """Keep a learned vector in place of frames that the batch hides (`masked_frames`)."""

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: sides of activations and norms."""
        del dimensions
        frames = frames_per_position(self.strides)
        values = [size * count for size, count in zip(self.channels, frames, strict=True)]
        normed = sum(values) if self.norm == "layer" else values[0]
        return 2 * sum(values) + normed + 2 * self.channels[-1] + prod(self.strides)

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Each convolution has all three sizes."""
        del dimensions
        counts = [len(self.channels), len(self.kernels), len(self.strides)]
        if any(first != second for first, second in pairwise(counts)):
            found = " and ".join(map(str, counts))
            yield Problem("channels", f"channels, kernels and strides have {found} numbers.")


@embeddings.register(f"{_PACKAGE}.pos:ConvolutionalPositionEmbedding")
class ConvPosConfig(EmbeddingConfig):
    """Tell positions by a wide grouped convolution over the frames (wav2vec 2.0)."""

    looks_ahead: ClassVar[bool] = True
    type: Literal["convpos"] = "convpos"
    kernel_size: PositiveInt = 128
    """Frames that the convolution reads, half of them later ones."""
    groups: PositiveInt = 16
    """Groups of channels that are convolved each by itself."""

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: both sides of the convolution."""
        return 2 * dimensions.hidden_size

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Groups must divide the width."""
        if dimensions.hidden_size % self.groups:
            width = dimensions.hidden_size
            divisors = [str(n) for n in range(1, width + 1) if width % n == 0]
            yield Problem(
                "groups",
                f"{self.groups} does not divide hidden_size ({width}). "
                f"Use one of {', '.join(divisors)}.",
            )
