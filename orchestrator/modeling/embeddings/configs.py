"""Options of the embedding parts. Imports without torch.

Options of the embedding parts that read images. Imports without torch.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig, Grid, embeddings

_PACKAGE = "orchestrator.modeling.embeddings"


@embeddings.register(f"{_PACKAGE}.word:WordEmbedding")
class WordConfig(EmbeddingConfig):
    """Look up a learned vector for each token id."""

    reads_content: ClassVar[bool] = True
    type: Literal["word"] = "word"
    scale: bool = False
    """Multiply by the square root of the hidden size (the original Transformer, PEGASUS, Marian).
    """

    @property
    def reads_words(self) -> bool:
        """Tokens are looked up."""
        return True

    @property
    def word_table(self) -> str:
        """The part itself."""
        return ""


@embeddings.register(f"{_PACKAGE}.pos:PositionEmbedding")
class PosConfig(EmbeddingConfig):
    """Look up a learned vector for each position."""

    type: Literal["pos"] = "pos"
    offset: int = Field(default=0, ge=0)
    """Rows of the table before position 0 (BART, RoBERTa: 2); they exist besides
    max_position_embeddings."""
    pad_aware: bool = False
    """Count real tokens only, so that padding on the left moves nothing (RoBERTa)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Patches are never padding."""
        if self.pad_aware and dimensions.grid is not None:
            yield Problem("pad_aware", "counts tokens, but these are patches. Set it false.")


@embeddings.register(f"{_PACKAGE}.word:SegmentEmbedding")
class SegConfig(EmbeddingConfig):
    """Look up a learned vector for each segment (`token_type_ids`)."""

    type: Literal["seg"] = "seg"


@embeddings.register(f"{_PACKAGE}.pos:SinusoidalPositionEmbedding")
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
    """Colour channels of the image."""
    bias: bool = True
    """Add a bias to the projection."""
    class_token: bool = True
    """Put a learned vector before the patches; pooling `first` reads it."""
    distillation_token: bool = False
    """Put a second learned vector after the class token, for a teacher's answers (DeiT)."""
    interpolate: bool = False
    """Accept images of other sizes (multiples of patch_size): `pos` interpolates its table."""

    @property
    def side(self) -> int:
        """Patches in a row and in a column."""
        return self.image_size // self.patch_size

    @property
    def free_grid(self) -> Grid | None:
        """The patches that positions were made for, if images may have other sizes."""
        return Grid(self.patch_size, self.side) if self.interpolate else None

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
