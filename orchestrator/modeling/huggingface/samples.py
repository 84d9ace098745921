"""A small random batch for a numeric check, as their class and as our model take it.

Legend: B batch, S length, T target length, C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Values
from orchestrator.modeling.interfaces import Batch

ROWS, LENGTH, SHORT = 2, 12, 7
SEED = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One batch in both forms.

    Attributes:
        theirs: Keyword arguments; those that their class does not know are left out.
        ours: Our batch.
        masks: Which positions of outputs [B, positions, ...] are real, by position count.
    """

    theirs: dict[str, Tensor]
    ours: Batch
    masks: tuple[Tensor, ...] = ()


def random_sample(architecture: Architecture, values: Values, config: ModelConfig) -> Sample:
    """Return a batch whose second row is padded.

    Raises:
        InputError: The kind of input is not known here.
    """
    kinds: dict[str, Callable[[Values, ModelConfig, torch.Generator], Sample]] = {
        "text": _text,
        "image": _image,
    }
    if architecture.processor not in kinds:
        raise InputError(
            f"{architecture.name} reads {architecture.processor}, for which there is no numeric "
            f"check. Checked are models of {', '.join(kinds)}."
        )
    generator = torch.Generator().manual_seed(SEED)
    return kinds[architecture.processor](values, config, generator)


def _text(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    del values
    ids, mask = _tokens(config, generator)
    batch = {"input_ids": ids, "attention_mask": mask}
    if config.embedding.part("seg") is not None:
        segments = torch.randint(0, config.type_vocab_size, ids.shape, generator=generator)
        batch["token_type_ids"] = segments * mask
    if config.decoder is not None:
        written, real = _tokens(config, generator)
        batch |= {"decoder_input_ids": written, "decoder_attention_mask": real}
    return Sample(batch, dict(batch), (mask.bool(),))


def _tokens(config: ModelConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, S]; the second row is shorter and padded on the right."""
    length = max(2, min(LENGTH, config.max_position_embeddings - config.pad_token_id - 1))
    ids = torch.randint(0, config.vocab_size, (ROWS, length), generator=generator)
    ids[ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, min(SHORT, length - 1) :] = 0
    return torch.where(mask.bool(), ids, config.pad_token_id), mask


def _image(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    del config
    pixels = {"pixel_values": _pixels(values, generator)}
    return Sample(pixels, dict(pixels))


def _pixels(values: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Return images [B, C, height, width] of the size that the model was made for."""
    size = values["image_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    shape = (ROWS, values.get("num_channels", 3), height, width)
    return torch.randn(shape, generator=generator)
