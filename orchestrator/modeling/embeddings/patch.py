"""Embeddings of images: patches, masked patches, and a text with an image in one sequence.

Patches are those of Dosovitskiy et al. 2021, masked patches those of BEiT (Bao et al. 2022), text
and image in one sequence that of ViLT (Kim et al. 2021, section 3.1).

Legend: B batch, S tokens of the text, C color channels, P patches, D model width.
"""

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import (
    ImageConfig,
    MaskedPatchConfig,
    PatchConfig,
)
from orchestrator.modeling.embeddings.stack import EmbeddingPart, EmbeddingStack
from orchestrator.modeling.embeddings.stack_config import WordPatchConfig
from orchestrator.modeling.interfaces import Batch, all_real


class ImageEmbedding(EmbeddingPart):
    """Project each patch, a convolution whose stride is its kernel.

    Parameters: ``projection`` (Conv2d from C to D channels), ``class_token`` [D] and
    ``distillation_token`` [D]. Patches are in reading order, after the tokens.
    """

    def __init__(self, config: ImageConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.expected = (config.channels, config.image_size, config.image_size)
        self.patch_size = config.patch_size
        self.interpolate = config.interpolate
        self.projection = nn.Conv2d(
            config.channels,
            width,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.bias,
        )
        self.class_token = nn.Parameter(torch.empty(width)) if config.class_token else None
        second = config.distillation_token
        self.distillation_token = nn.Parameter(torch.empty(width)) if second else None

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, tokens + P, D]; reads ``pixel_values`` [B, C, height, width].

        Raises:
            InputError: The batch has no images, or they are not of a size the model reads.
        """
        pixels = batch.get("pixel_values")
        if pixels is None or not self._reads(tuple(pixels.shape[1:])):
            found = "none" if pixels is None else tuple(pixels.shape[1:])
            free = f", or other multiples of {self.patch_size}," if self.interpolate else ""
            raise InputError(
                f"The model reads pixel_values of [batch, *{self.expected}]{free}; found {found}. "
                "Resize the images with the model's processor."
            )
        patches = self.replace(self.projection(pixels).flatten(2).transpose(1, 2), batch)
        both = (self.class_token, self.distillation_token)
        tokens: list[Tensor] = [token for token in both if token is not None]
        if not tokens:
            return patches
        return torch.cat([torch.stack(tokens).expand(patches.shape[0], -1, -1), patches], dim=1)

    def replace(self, patches: Tensor, batch: Batch) -> Tensor:
        """Return the patches [B, P, D] with what the batch masks replaced; here as they are."""
        del batch
        return patches

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return that every position is real, bool [B, S]: images are not padded."""
        del batch, past
        return all_real(len(hidden), hidden.shape[1], hidden.device)

    def _reads(self, shape: tuple[int, ...]) -> bool:
        if not self.interpolate or len(shape) != 3:
            return shape == self.expected
        sides = [size > 0 and size % self.patch_size == 0 for size in shape[1:]]
        return shape[0] == self.expected[0] and all(sides)


class PatchEmbedding(ImageEmbedding):
    """Patches of an image."""

    Config = PatchConfig


class MaskedPatchEmbedding(ImageEmbedding):
    """Patches of an image, some replaced by a learned vector.

    Reads ``masked_positions`` [B, P], true where a patch is hidden; without it nothing is.
    Parameters: also ``mask_token`` [D].
    """

    Config = MaskedPatchConfig

    def __init__(self, config: MaskedPatchConfig, dimensions: Dimensions) -> None:
        super().__init__(config, dimensions)
        self.mask_token = nn.Parameter(torch.empty(dimensions.hidden_size))

    def replace(self, patches: Tensor, batch: Batch) -> Tensor:
        """Put the learned vector in place of masked patches [B, P, D].

        Raises:
            InputError: ``masked_positions`` does not name each patch.
        """
        masked = batch.get("masked_positions")
        if masked is None:
            return patches
        if masked.shape != patches.shape[:2]:
            raise InputError(
                f"masked_positions is {list(masked.shape)}, the images have [batch, patches] "
                f"{list(patches.shape[:2])}. They must be equal."
            )
        return torch.where(masked.bool()[..., None], self.mask_token.to(patches.dtype), patches)


IMAGE_KEYS = ("pixel_values", "masked_positions")
"""Inputs of the image's stack; all others are the text's."""


class WordPatchEmbedding(EmbeddingPart):
    """The text's vectors, followed by the image's.

    ``attention_mask`` [B, S] is that of the text; positions of the image are all real. Labels of
    positions are [B, S + P]. Parameters: ``text.*``, ``image.*`` and ``modality`` [2, D].
    """

    Config = WordPatchConfig

    def __init__(self, config: WordPatchConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.text = EmbeddingStack(config.text, dimensions)
        self.image = EmbeddingStack(config.image, dimensions)
        kinds = torch.empty(2, dimensions.hidden_size) if config.modalities else None
        self.modality = None if kinds is None else nn.Parameter(kinds)

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S + P, D]; reads ``input_ids`` [B, S] and ``pixel_values``.

        Raises:
            InputError: One of the two is missing or does not fit.
        """
        words, _ = self.text(_of_text(batch))
        patches, _ = self.image(_of_image(batch))
        if len(words) != len(patches):
            raise InputError(f"{len(words)} texts and {len(patches)} images. Give as many of both.")
        if self.modality is not None:
            words, patches = words + self.modality[0], patches + self.modality[1]
        return torch.cat([words, patches], dim=1)

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return which positions are real, bool [B, S + P]."""
        length = batch["input_ids"].shape[1]
        text = self.text.mask(_of_text(batch), hidden[:, :length], past)
        image = self.image.mask(_of_image(batch), hidden[:, length:])
        return torch.cat([text, image], dim=1)


def _of_text(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if key not in IMAGE_KEYS}


def _of_image(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if key in IMAGE_KEYS}
