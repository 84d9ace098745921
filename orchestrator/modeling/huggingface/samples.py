"""Small random batches for the numeric check, in the form of their class and in ours.

Legend: B batch, S length, T target length, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.values import Values
from orchestrator.modeling.interfaces import Batch

ROWS, LENGTH, SHORT, FRAMES = 2, 12, 7, 39
MASKED = 0.4
CLIP_BEFORE_FIX = 2
"""``eos_token_id`` of old CLIP configs; it means that the largest id ends a text."""
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
        "image_text": _image_text,
        "log_mel": _log_mel,
        "waveform": _waveform,
    }
    if architecture.processor not in kinds:
        raise InputError(
            f"{architecture.name} reads {architecture.processor}, for which there is no numeric "
            f"check. Checked are models of {', '.join(kinds)}."
        )
    generator = torch.Generator().manual_seed(SEED)
    return kinds[architecture.processor](values, config, generator)


def text_sample(config: ModelConfig) -> Sample:
    """Return a batch of texts for a model that has no counterpart in transformers."""
    return _text(Values({}), config, torch.Generator().manual_seed(SEED))


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


def _tokens(
    config: ModelConfig, generator: torch.Generator, positions: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, S]; the second row is shorter and padded on the right."""
    limit = config.max_position_embeddings if positions is None else positions
    length = max(2, min(LENGTH, limit))
    ids = torch.randint(0, config.vocab_size, (ROWS, length), generator=generator)
    ids[ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    mask = _mask(length, min(SHORT, length - 1))
    return torch.where(mask.bool(), ids, config.pad_token_id), mask


def _image(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    pixels = _pixels(values, generator)
    theirs, ours = {"pixel_values": pixels}, {"pixel_values": pixels}
    patches = config.embedding.part("masked_patch")
    if patches is not None:
        count = (patches.positions() or 1) - 1
        hidden = torch.rand((ROWS, count), generator=generator) < MASKED
        theirs["bool_masked_pos"] = ours["masked_positions"] = hidden
    return Sample(theirs, ours)


def _image_text(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    """Return whole texts that end with the end token, and images."""
    text = values.section("text_config") if "text_config" in values else values
    length = max(2, min(LENGTH, config.max_position_embeddings - 1))
    end = text.integer("eos_token_id", CLIP_BEFORE_FIX)
    if end == CLIP_BEFORE_FIX or end >= config.vocab_size:
        end = config.vocab_size - 1
    ids = torch.randint(0, config.vocab_size, (ROWS, length), generator=generator)
    banned = (ids == end) | (ids == config.vocab_size - 1) | (ids == config.pad_token_id)
    ids[banned] = next(i for i in range(4) if i not in (end, config.pad_token_id))
    ids[:, -1] = end
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    vision = values.section("vision_config") if "vision_config" in values else values
    pixels = _pixels(vision, generator)
    dual = config.embedding.part("dual") is not None
    return Sample(
        batch | {"pixel_values": pixels},
        batch | {"second.pixel_values" if dual else "pixel_values": pixels},
    )


def _log_mel(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    """Return spectrograms [B, F, M]; Whisper's have a fixed length, no mask, and [B, M, F]."""
    written, real = _tokens(config, generator, values.integer("max_target_positions", LENGTH))
    words = {"decoder_input_ids": written, "decoder_attention_mask": real}
    if "num_mel_bins" in values:
        frames = 2 * values.integer("max_source_positions")
        shape = (ROWS, frames, values.integer("num_mel_bins"))
        sound = torch.randn(shape, generator=generator)
        theirs = words | {"input_features": sound.transpose(1, 2)}
        return Sample(theirs, words | {"input_features": sound}, (real.bool(),))
    frames = min(FRAMES, values.integer("max_source_positions"))
    bins = values.integer("input_feat_per_channel")
    sound = torch.randn((ROWS, frames, bins), generator=generator)
    mask = _mask(frames, frames // 2)
    batch = words | {"input_features": sound * mask[..., None], "attention_mask": mask}
    return Sample(batch, dict(batch), (real.bool(),))


def _waveform(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    """Return sound [B, N]; masks are those of the frames that convolutions make of it."""
    del config
    layers = list(zip(values.integers("conv_kernel"), values.integers("conv_stride"), strict=True))
    needed = [LENGTH, SHORT]
    for kernel, stride in reversed(layers):
        needed = [(frames - 1) * stride + kernel for frames in needed]
    mask = _mask(*needed)
    sound = torch.randn(mask.shape, generator=generator) * mask
    batch = {"input_values": sound, "attention_mask": mask}
    return Sample(batch, dict(batch), (_mask(LENGTH, SHORT).bool(),))


def _mask(longest: int, shortest: int) -> Tensor:
    """Return [B, longest], 1 at real places; the last row is the short one."""
    lengths = torch.full((ROWS, 1), longest)
    lengths[-1] = shortest
    return (torch.arange(longest) < lengths).long()


def _pixels(values: Values, generator: torch.Generator) -> Tensor:
    """Return images [B, C, height, width] of the size that the model was made for."""
    size = values.square("image_size")
    shape = (ROWS, values.integer("num_channels", 3), size, size)
    return torch.randn(shape, generator=generator)
