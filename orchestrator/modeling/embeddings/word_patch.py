"""Embedding of a text and an image in one sequence (ViLT: Kim et al. 2021, section 3.1).

Legend: B batch, S tokens of the text, P positions of the image, D model width.
"""

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.stack import EmbeddingStack
from orchestrator.modeling.embeddings.word_patch_configs import WordPatchConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart

IMAGE_KEYS = ("pixel_values", "masked_positions")
"""What the image's stack reads; everything else is the text's."""


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
