"""Options of the embedding parts that read images. Imports without torch."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig, Grid
from orchestrator.modeling.registry import embeddings

_PACKAGE = "orchestrator.modeling.embeddings"


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
