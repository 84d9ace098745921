"""Pictures of a batch, with a random part cut out of each in training."""

from orchestrator.data.example_processor import ExampleProcessor
from orchestrator.data.example_rows import Examples
from orchestrator.data.image_augmentation import CropAndFlip
from orchestrator.data.images import Features, ImageProcessor
from orchestrator.data.randomness import IntArray
from orchestrator.data.sample_configs import CropConfig
from orchestrator.errors import InputError


class PictureBatches:
    """Makes ``pixel_values`` of examples; what is cut depends on (seed, epoch, sample) alone."""

    def __init__(
        self, examples: Examples, processor: ExampleProcessor, crop: CropConfig | None, seed: int
    ) -> None:
        """Take the examples of a split; those of training alone are cut.

        Raises:
            InputError: they have no pictures.
        """
        if processor.picture is None:
            raise InputError("these examples have no pictures.")
        self._examples, self._seed = examples, seed
        self._processor: ImageProcessor = processor.picture
        self._rule = None
        if crop is not None and examples.training:
            self._rule = CropAndFlip(crop.area, crop.ratio, crop.flip)

    def __call__(self, indices: IntArray, epoch: int | IntArray) -> Features:
        """Return float32 [B, C, height, width]."""
        pictures = self._examples.pictures(indices)
        if self._rule is None:
            return self._processor.arrays(pictures)["pixel_values"]
        made = self._processor.augmented(pictures, self._rule, indices, epoch, self._seed)
        return made["pixel_values"]
