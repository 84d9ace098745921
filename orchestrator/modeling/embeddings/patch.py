"""Patch embedding of images (Dosovitskiy et al. 2021)."""

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import PatchConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart


class PatchEmbedding(EmbeddingPart):
    """Project each patch, a convolution whose stride is its kernel.

    Parameters: ``projection`` (Conv2d from C to D channels), ``class_token`` [D]. Patches are in
    reading order, after the class token if there is one.
    """

    Config = PatchConfig

    def __init__(self, config: PatchConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.expected = (config.channels, config.image_size, config.image_size)
        self.projection = nn.Conv2d(
            config.channels,
            dimensions.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.bias,
        )
        token = torch.empty(dimensions.hidden_size) if config.class_token else None
        self.class_token = None if token is None else nn.Parameter(token)

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D]; reads ``pixel_values`` [B, C, height, width].

        Raises:
            InputError: The batch has no images, or they are not of the configured size.
        """
        pixels = batch.get("pixel_values")
        if pixels is None or tuple(pixels.shape[1:]) != self.expected:
            found = "none" if pixels is None else tuple(pixels.shape[1:])
            raise InputError(
                f"The model reads pixel_values of [batch, *{self.expected}]; found {found}. "
                "Resize the images with the model's processor."
            )
        patches: Tensor = self.projection(pixels).flatten(2).transpose(1, 2)
        if self.class_token is None:
            return patches
        first = self.class_token.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1)
