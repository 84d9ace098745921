"""A random batch for any model, to see that its outputs are finite.

Legend: B batch, S length, F frames, C channels.
"""

import torch
from torch import Tensor

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import ImageConfig, SpeechConfig
from orchestrator.modeling.embeddings.stack_config import (
    DualEmbeddingConfig,
    EmbeddingStackConfig,
    WordPatchConfig,
)
from orchestrator.modeling.interfaces import SECOND, Batch

# Rows, tokens of the longer and the shorter row, frames of sound.
ROWS, LENGTH, SHORT, FRAMES = 2, 12, 7, 39
SEED = 20


def batch_of(config: ModelConfig) -> Batch:
    """Return a batch whose second row is padded where the model reads texts or sound."""
    generator = torch.Generator().manual_seed(SEED)
    part = config.embedding.parts[0]
    if isinstance(part, DualEmbeddingConfig):
        first = _inputs(part.first, config.dimensions, generator)
        second = _inputs(part.of_second, config.dimensions.of_second, generator)
        return first | {f"{SECOND}{key}": value for key, value in second.items()}
    batch = _inputs(config.embedding, config.dimensions, generator)
    if config.target_embedding is not None:
        words = _inputs(config.target_embedding, config.dimensions, generator)
        batch |= {f"decoder_{key}": value for key, value in words.items()}
    return batch


def modality_of(config: ModelConfig) -> str:
    """Return ``text``, ``vision`` or ``audio``: an image beside a text is vision."""
    part = config.embedding.parts[0]
    stacks = (part.first, part.of_second) if isinstance(part, DualEmbeddingConfig) else ()
    readers = [stack.parts[0] for stack in stacks] or [part]
    if any(isinstance(each, ImageConfig | WordPatchConfig) for each in readers):
        return "vision"
    return "audio" if isinstance(part, SpeechConfig) else "text"


def _inputs(stack: EmbeddingStackConfig, sizes: Dimensions, generator: torch.Generator) -> Batch:
    """Return what one stack reads."""
    part = stack.parts[0]
    if isinstance(part, WordPatchConfig):
        image = _inputs(part.image, sizes, generator)
        return _inputs(part.text, sizes, generator) | image
    if isinstance(part, ImageConfig):
        shape = (ROWS, part.channels, part.image_size, part.image_size)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    if isinstance(part, SpeechConfig):
        mask = _mask(FRAMES, FRAMES // 2)
        sound = torch.randn((ROWS, FRAMES, part.mel_bins), generator=generator)
        return {"input_features": sound * mask[..., None], "attention_mask": mask}
    length = max(2, min(LENGTH, sizes.max_position_embeddings))
    mask = _mask(length, min(SHORT, length - 1))
    ids = torch.randint(0, sizes.vocab_size, mask.shape, generator=generator)
    batch = {"input_ids": ids, "attention_mask": mask}
    if stack.part("seg") is not None:
        segments = torch.randint(0, sizes.type_vocab_size, mask.shape, generator=generator)
        batch["token_type_ids"] = segments * mask
    return batch


def _mask(longest: int, shortest: int) -> Tensor:
    """Return [B, longest], 1 at real places; the last row is the short one."""
    lengths = torch.full((ROWS, 1), longest)
    lengths[-1] = shortest
    return (torch.arange(longest) < lengths).long()
