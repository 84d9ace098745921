"""Options of the embedding parts: tokens, positions, images and sound. Imports without torch."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig, Grid, embeddings
from orchestrator.modeling.layers.block_options import Rate

_PACKAGE = "orchestrator.modeling.embeddings"


@embeddings.register(f"{_PACKAGE}.tables:WordEmbedding")
class WordConfig(EmbeddingConfig):
    """Look up a learned vector for each token id."""

    reads_content: ClassVar[bool] = True
    type: Literal["word"] = "word"
    scale: bool | Literal["rounded"] = False
    """Multiply by the square root of the hidden size (the original Transformer, PEGASUS, Marian);
    rounded: first brought to the type of the vectors (Gemma; the same in fp32)."""

    @property
    def reads_words(self) -> bool:
        """Tokens are looked up."""
        return True

    @property
    def word_table(self) -> str:
        """The part itself."""
        return ""


@embeddings.register(f"{_PACKAGE}.tables:PositionEmbedding")
class PosConfig(EmbeddingConfig):
    """Look up a learned vector for each position."""

    type: Literal["pos"] = "pos"
    offset: int = Field(default=0, ge=0)
    """Rows of the table before position 0 (BART, RoBERTa: 2); they come in addition to
    max_position_embeddings."""
    pad_aware: bool = False
    """Count real tokens only, so that padding on the left moves nothing (RoBERTa)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Patches are never padding."""
        if self.pad_aware and dimensions.grid is not None:
            yield Problem("pad_aware", "counts tokens, but these are patches. Set it false.")


@embeddings.register(f"{_PACKAGE}.tables:SegmentEmbedding")
class SegConfig(EmbeddingConfig):
    """Look up a learned vector for each segment (`token_type_ids`)."""

    type: Literal["seg"] = "seg"


@embeddings.register(f"{_PACKAGE}.positions:SinusoidalPositionEmbedding")
class SinusoidalPosConfig(EmbeddingConfig):
    """Add fixed sine and cosine waves of the position."""

    type: Literal["sinusoidalpos"] = "sinusoidalpos"
    layout: Literal["interleaved", "halves"] = "interleaved"
    """Sine and cosine alternate (Vaswani et al. 2017), or all sines come first (PEGASUS, Marian).
    """
    spacing: Literal["paper", "tensor2tensor"] = "paper"
    """Wavelength i of D/2 is 2 pi 10000^(2i/D), or the longest one is exactly 2 pi 10000 (Whisper,
    Speech2Text)."""
    offset: int = Field(default=0, ge=0)
    """Position number of the first element (Speech2Text: pad_token_id + 1)."""
    pad_aware: bool = False
    """Count real positions only; padding gets zeros (Speech2Text)."""
    stored: bool = False
    """Keep the waves as a table that is stored but not trained (PEGASUS, the encoder of Whisper:
    their files hold it); otherwise they are computed in every pass."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """The width must split into sine and cosine, and into two wavelengths at least."""
        width = dimensions.hidden_size
        if width % 2:
            yield Problem("type", f"hidden_size {width} is odd. Use an even one.")
        if width < 4 and self.spacing == "tensor2tensor":
            yield Problem("spacing", f"needs two wavelengths; hidden_size {width} has one.")


class ImageConfig(EmbeddingConfig):
    """Options of a part that cuts an image into square patches and projects each one."""

    reads_content: ClassVar[bool] = True
    image_size: PositiveInt = 224
    """Height and width of the image in pixels."""
    patch_size: PositiveInt = 16
    """Height and width of a patch in pixels."""
    channels: PositiveInt = 3
    """Color channels of the image."""
    bias: bool = True
    """Add a bias to the projection."""
    class_token: bool = True
    """Put a learned vector before the patches; pooling `first` reads it."""
    distillation_token: bool = False
    """Put a second learned vector after the class token, for a teacher's answers (DeiT)."""
    interpolate: bool = False
    """Accept images of other sizes (multiples of patch_size): `pos` interpolates its table."""
    antialias: bool = False
    """Interpolate with antialiasing (DINOv2 with registers)."""

    @property
    def side(self) -> int:
        """Patches in a row and in a column."""
        return self.image_size // self.patch_size

    @property
    def free_grid(self) -> Grid | None:
        """The patches that positions were made for, if images may have other sizes."""
        return Grid(self.patch_size, self.side, self.antialias) if self.interpolate else None

    def positions(self) -> int:
        """Number of patches, and one for each token before them."""
        return self.side**2 + self.class_token + self.distillation_token

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Patches must tile the image; the distillation token follows the class token."""
        del dimensions
        if self.image_size % self.patch_size:
            sizes = [n for n in range(1, self.image_size + 1) if self.image_size % n == 0]
            yield Problem(
                "patch_size",
                f"{self.patch_size} does not divide image_size ({self.image_size}). "
                f"Use one of {', '.join(map(str, sizes))}.",
            )
        if self.antialias and not self.interpolate:
            yield Problem("antialias", "is for interpolated positions. Set interpolate true.")
        if self.distillation_token and not self.class_token:
            yield Problem("distillation_token", "follows the class token. Set class_token true.")


@embeddings.register(f"{_PACKAGE}.patch:PatchEmbedding")
class PatchConfig(ImageConfig):
    """Cut an image into square patches and project each one."""

    type: Literal["patch"] = "patch"


@embeddings.register(f"{_PACKAGE}.patch:MaskedPatchEmbedding")
class MaskedPatchConfig(ImageConfig):
    """Like `patch`, with a learned vector in place of patches that the batch masks (BEiT)."""

    type: Literal["masked_patch"] = "masked_patch"


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

    def saved_activations(self, dimensions: Dimensions) -> int:
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
            yield Problem("kernels", f"{', '.join(even)}: must be odd, to be centered on a frame.")
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
    """Normalize each channel over time after the first convolution (wav2vec 2.0 base), or each
    frame after every convolution (large)."""
    bias: bool = False
    """Give the convolutions biases."""
    norm_eps: float = Field(default=1e-5, gt=0.0)
    """Added to the variance in the norm before the projection."""
    dropout: Rate = 0.0
    """Dropout rate on the projected frames."""
    mask_vector: bool = False
    """Keep a learned vector in place of frames that the batch hides (`masked_frames`)."""

    def saved_activations(self, dimensions: Dimensions) -> int:
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


@embeddings.register(f"{_PACKAGE}.positions:ConvolutionalPositionEmbedding")
class ConvPosConfig(EmbeddingConfig):
    """Encode positions by a wide grouped convolution over the frames (wav2vec 2.0)."""

    looks_ahead: ClassVar[bool] = True
    type: Literal["convpos"] = "convpos"
    kernel_size: PositiveInt = 128
    """Frames that the convolution reads, half of them later ones."""
    groups: PositiveInt = 16
    """Groups of channels that are convolved each by itself."""

    def saved_activations(self, dimensions: Dimensions) -> int:
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
