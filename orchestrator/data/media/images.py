"""Pictures to model input: reading, resizing, cropping and normalizing as six families do.

Settings are stored as ``preprocessor_config.json`` in the form of transformers' image processors,
which can open them; the arithmetic is that of their Pillow back end. Home-made because the fast
processors of transformers 5 need torchvision.

Legend: B batch, C channels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.data.media.augmentation import choose_crops
from orchestrator.data.media.image_settings import (
    CLASSES,
    FAMILIES,
    RESAMPLING,
    Resampling,
    from_theirs,
    to_theirs,
)
from orchestrator.data.media.inputs import CropConfig
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SETTINGS = "preprocessor_config.json"
Pixels = npt.NDArray[np.uint8]
"""[height, width, C]."""


def read_image(path: str | Path | BinaryIO) -> "Image":
    """Read a PNG, JPEG or other file that Pillow knows, rotated as its EXIF data require.

    Raises:
        InputError: The file is missing, damaged or too large to be a picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            turned.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
    return turned


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Turns pictures into a batch.

    Attributes:
        kind: Name of the class of transformers with these steps.
        size: Height and width after resizing; a single number: that of the shorter edge, the other
            one in proportion; None: no resizing.
        crop: Height and width of the part that is cut out of the middle, filled with black where
            the picture is smaller; None: everything.
        resample: Resampling filter.
        scale: Factor on the bytes; None: 1.
        mean: Subtracted from each of the C channels after scaling; None: not normalized.
        std: What each channel is then divided by.
    """

    kind: str = "ViTImageProcessor"
    size: tuple[int, int] | int | None = (224, 224)
    crop: tuple[int, int] | None = None
    resample: Resampling = "bilinear"
    scale: float | None = 1 / 255
    mean: tuple[float, ...] | None = (0.5, 0.5, 0.5)
    std: tuple[float, ...] | None = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Refuse settings that leave pictures of different sizes.

        Raises:
            InputError: Nothing brings all pictures to one size, or mean and std do not fit.
        """
        if self.crop is None and not isinstance(self.size, tuple):
            raise InputError(
                f"size {self.size} without a crop keeps the shape of each picture, but a model "
                "reads one size. Give height and width, or a crop."
            )
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise InputError(f"mean {self.mean} and std {self.std}: give both, for each channel.")

    @classmethod
    def of_family(cls, family: str, side: int | None = None, channels: int = 3) -> "ImageProcessor":
        """Return what a family does; mean and std are its own.

        Args:
            family: Vit, deit, beit, clip, siglip or vilt.
            side: Height and width that the model reads; None: the family's usual ones.
            channels: 3, or 1 for gray pictures (mean and std of the first channel).

        Raises:
            InputError: There is no such family.
        """
        if family not in FAMILIES:
            raise InputError(f"{family!r} is not a family of images. Known: {', '.join(FAMILIES)}.")
        found = cls(**FAMILIES[family])
        if side is not None:
            found = found.for_side(side)
        return replace(found, mean=(found.mean or ())[:channels], std=(found.std or ())[:channels])

    def for_side(self, side: int) -> "ImageProcessor":
        """Return the same steps for another size of the model's square input."""
        if self.crop is None:
            return replace(self, size=(side, side))
        edge = self.size[0] if isinstance(self.size, tuple) else self.size
        larger = None if edge is None else max(side, round(side * edge / self.crop[0]))
        size = (larger, larger) if isinstance(self.size, tuple) and larger else larger
        return replace(self, size=size, crop=(side, side))

    @classmethod
    def load(cls, folder: str | Path, side: int | None = None) -> "ImageProcessor":
        """Open the settings that `save` or an image processor of transformers wrote.

        Args:
            folder: A model's folder.
            side: Height and width that the model reads. Needed for settings that keep the shape of
                each picture (ViLT): these are then resized to a square.

        Raises:
            InputError: There are no settings, or they have no counterpart here.
        """
        path = Path(folder) / SETTINGS
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            own = from_theirs(values, side)
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            raise InputError(f"{path} cannot be read: {error}. Give a model's folder.") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(**own)

    def save(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json`` into an existing or new folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        names = ("kind", "size", "crop", "resample", "scale", "mean", "std")
        values = to_theirs({name: getattr(self, name) for name in names})
        text = json.dumps(values, indent=2) + "\n"
        (target / SETTINGS).write_text(text, encoding="utf-8")

    @property
    def channels(self) -> int:
        """C."""
        return 3 if self.mean is None else len(self.mean)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        size = self.crop or self.size
        if not isinstance(size, tuple):  # __post_init__ refuses that
            raise InputError(f"size {size} is not one of height and width")
        return size

    def arrays(self, pictures: Sequence[Any]) -> dict[str, Float32Array]:
        """Resize, crop, scale and normalize.

        Args:
            pictures: Images of Pillow, or uint8 arrays [height, width] or [height, width, C].

        Returns:
            pixel_values, float32 [B, C, height, width].

        Raises:
            InputError: There is no picture, or one is not made of bytes.
        """
        return self._stack([self._fit(self.picture(each)) for each in pictures])

    def augmented(
        self,
        pictures: Sequence[Any],
        crop: CropConfig,
        samples: IntArray,
        epoch: int | IntArray,
        seed: int,
    ) -> dict[str, Float32Array]:
        """Crop each picture at random, in place of resizing and center cropping; for training.

        Args:
            pictures: See `arrays`.
            crop: How crops are chosen.
            samples: Index of each picture in the data set, [B].
            epoch: Epoch of all pictures, or of each [B].
            seed: Seed of the job. A crop depends on (seed, epoch, sample) alone.

        Returns:
            pixel_values, float32 [B, C, height, width].
        """
        from PIL.Image import Transpose

        images = [self.picture(each) for each in pictures]
        sizes = np.asarray([(image.height, image.width) for image in images], dtype=np.int64)
        height, width = self.output_size
        boxes, flips = choose_crops(crop, sizes.reshape(-1, 2), samples, epoch, seed)
        cut = []
        for image, box, flip in zip(images, boxes.tolist(), flips.tolist(), strict=True):
            part = image.crop(tuple(box)).resize((width, height), RESAMPLING[self.resample])
            cut.append(np.asarray(part.transpose(Transpose.FLIP_LEFT_RIGHT) if flip else part))
        return self._stack(cut)

    def __call__(self, pictures: Sequence[Any]) -> "dict[str, Tensor]":
        """Return `arrays` as tensors: a batch ready for a model."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays(pictures).items()}

    def picture(self, picture: Any) -> "Image":
        """Return a picture as an image of Pillow with C channels.

        Raises:
            InputError: It is neither an image nor bytes.
        """
        from PIL import Image

        if isinstance(picture, np.ndarray):
            gray = picture.ndim == 3 and picture.shape[-1] == 1
            array = picture[..., 0] if gray else picture
            has_colors = array.ndim == 3 and array.shape[-1] in (3, 4)
            if array.dtype != np.uint8 or not (array.ndim == 2 or has_colors) or not array.size:
                raise InputError(
                    f"a picture is {array.dtype} {list(picture.shape)}; expected are bytes (uint8) "
                    "[height, width] or [height, width, channels]."
                )
            picture = Image.fromarray(np.ascontiguousarray(array))
        if not isinstance(picture, Image.Image):
            raise InputError(f"{type(picture).__name__} is not a picture. Read it with read_image.")
        return picture.convert("L" if self.channels == 1 else "RGB")

    def _fit(self, image: "Image") -> Pixels:
        """Resize and crop; bytes [height, width] or [height, width, C]."""
        if self.size is not None:
            height, width = self._target(image.height, image.width)
            image = image.resize((width, height), RESAMPLING[self.resample])
        pixels = np.asarray(image)
        return pixels if self.crop is None else center(pixels, self.crop)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        if isinstance(self.size, tuple):
            return self.size
        short = self.size or 0
        long = int(short * max(height, width) / min(height, width))
        return (long, short) if width <= height else (short, long)

    def _stack(self, pictures: Sequence[npt.NDArray[Any]]) -> dict[str, Float32Array]:
        """Scale and normalize bytes, [height, width] or [height, width, C] each."""
        if not pictures:
            raise InputError("there is no picture. Give at least one.")
        stacked = np.stack([each if each.ndim == 3 else each[..., None] for each in pictures])
        values = stacked.astype(np.float64)
        if self.scale is not None:
            values = values * self.scale
        result: Float32Array = values.astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean, std = (np.asarray(each, dtype=np.float32) for each in (self.mean, self.std))
            result = (result - mean) / std
        return {"pixel_values": np.ascontiguousarray(result.transpose(0, 3, 1, 2))}


def center(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Cut the middle out of [height, width, ...], on black where the picture is smaller."""
    for axis, wanted in enumerate(size):
        found = pixels.shape[axis]
        missing = max(wanted - found, 0)
        before = ceil(missing / 2)
        if missing:
            borders = [(0, 0)] * pixels.ndim
            borders[axis] = (before, missing - before)
            pixels = np.pad(pixels, borders)
        start = (found - wanted) // 2 + before
        pixels = pixels.take(range(start, start + wanted), axis=axis)
    return pixels


__all__ = ["CLASSES", "FAMILIES", "ImageProcessor", "read_image"]
