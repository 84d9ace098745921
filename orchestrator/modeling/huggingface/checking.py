"""Numeric check of a conversion: one small random batch through their class and through our model.

Legend: B batch, S length, T target length, C channels, V vocabulary.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.comparison import require_known, their_model
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.interfaces import Batch
from orchestrator.modeling.package import load_model

TOLERANCE = 1e-4
"""Largest difference, in units of the largest value, that rounding in fp32 explains."""

# The random batch: rows, tokens of the longer and the shorter row, frames, masked patches.
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


@dataclass(frozen=True, slots=True)
class Report:
    """Result of the check.

    Attributes:
        max_abs_difference: Largest difference of an output.
        max_relative_difference: The same divided by the largest output of theirs.
        outputs: Name of each output of ours that was compared → shape.
        not_compared: Names of those that their class does not answer (a pooler that only travels
            along).
        max_embedding_difference: Largest difference of a text's vector; None: the package states
            none.
    """

    max_abs_difference: float
    max_relative_difference: float
    outputs: dict[str, list[int]]
    not_compared: tuple[str, ...] = ()
    max_embedding_difference: float | None = None

    def to_json(self) -> JsonObject:
        """Return the content of a report file."""
        content: JsonObject = {
            "max_abs_difference": self.max_abs_difference,
            "max_relative_difference": self.max_relative_difference,
            "tolerance": TOLERANCE,
            "outputs": {name: [*shape] for name, shape in self.outputs.items()},
            "not_compared": list(self.not_compared),
        }
        if self.max_embedding_difference is not None:
            content["max_embedding_difference"] = self.max_embedding_difference
        return content


def check(
    theirs: Path,
    architecture: Architecture,
    values: Values,
    ours: Path,
    config: ModelConfig,
    tensors: Iterable[Tensor],
) -> Report:
    """Compare all tensors and outputs of two folders in fp32; one model at a time is in memory.

    Args:
        theirs: A folder that transformers opens.
        architecture: Which class it is.
        values: Its complete config.
        ours: A folder with the same model in our form.
        config: Our config.
        tensors: The tensors of our folder in their layout.

    Raises:
        IntegrityError: A tensor differs, or an output differs by more than rounding explains, or is
            not there.
    """
    sample = random_sample(architecture, values, config)
    made = architecture.computed(config)
    model = their_model(theirs, architecture, config, frozenset(made))
    require_known(model.state_dict(), chain(tensors, made.values()), architecture)
    expected = outputs_of(model, sample)
    del model
    found = our_outputs(ours, sample)
    silent = {each.name for each in config.target if each.type_name() == "vector"}
    return compare_outputs(found, expected, sample, silent)


@torch.no_grad()
def outputs_of(model: Any, sample: Sample) -> list[Tensor]:
    """Return every tensor that a model of theirs answers."""
    known = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in sample.theirs.items() if name in known}
    output = model(**inputs)
    if "start_logits" in output:  # two outputs of one layer here
        return [torch.stack([output["start_logits"], output["end_logits"]], dim=-1)]
    return list(_tensors(output))


@torch.no_grad()
def our_outputs(folder: Path, sample: Sample) -> dict[str, Tensor]:
    """Return the logits of every head in fp32; ``encoded`` of a model without heads."""
    model = load_model(folder).eval()
    if not model.config.target:
        return {"encoded": model.encode(sample.ours)}
    return model.predict(sample.ours)


def compare_outputs(
    found: Mapping[str, Tensor],
    expected: list[Tensor],
    sample: Sample,
    silent: Collection[str] = (),
) -> Report:
    """Compare each output of ours with the one of theirs that has its shape.

    Args:
        found: Our outputs by name.
        expected: Theirs.
        sample: What both read.
        silent: Names of ours that theirs may keep to itself; one output must be compared.

    Raises:
        IntegrityError: None has, or the nearest one differs.
    """
    largest, relative = 0.0, 0.0
    compared: dict[str, list[int]] = {}
    for name, ours in found.items():
        pairs = [pair for theirs in expected for pair in _aligned(ours, theirs)]
        if not pairs and name in silent and len(found) > 1:
            continue
        if not pairs:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in expected)
            raise IntegrityError(
                f"output {name} has shape {list(ours.shape)}; theirs have {shapes}."
            )
        difference, share = min(_difference(*pair, sample) for pair in pairs)
        if not share <= TOLERANCE:
            raise IntegrityError(
                f"output {name} differs from theirs by {difference:.3g}, {share:.3g} of the "
                f"largest value; rounding explains {TOLERANCE:g}. The conversion of this "
                "checkpoint is wrong, so nothing was written. Please report its config.json."
            )
        largest, relative = max(largest, difference), max(relative, share)
        compared[name] = list(ours.shape)
    return Report(largest, relative, compared, tuple(sorted(found.keys() - compared.keys())))


def random_sample(architecture: Architecture, values: Values, config: ModelConfig) -> Sample:
    """Return a batch whose second row is padded.

    Raises:
        InputError: The kind of input is not known here.
    """
    kinds: dict[str, Callable[[Values, ModelConfig, torch.Generator], Sample]] = {
        "text": _text,
        "ended_text": _ended_text,
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


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def _aligned(ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the ways in which two outputs may be the same.

    A head over positions answers at all of them here, [B, S, K]; some classes leave out the class
    token in front (BEiT) or the image behind a text (ViLT).
    """
    if ours.shape == theirs.shape:
        yield ours, theirs
    elif ours.dim() == theirs.dim() == 3 and ours.shape[::2] == theirs.shape[::2]:
        count = theirs.shape[1]
        if 0 < count < ours.shape[1]:
            yield ours[:, :count], theirs
            yield ours[:, -count:], theirs


def _difference(ours: Tensor, theirs: Tensor, sample: Sample) -> tuple[float, float]:
    """Return the largest difference at real positions, absolute and relative; NaN counts as inf."""
    ours, theirs = ours.double(), theirs.double()
    for mask in sample.masks:
        if ours.dim() > 1 and ours.shape[:2] == mask.shape:
            ours, theirs = ours[mask], theirs[mask]
            break
    difference = float((ours - theirs).abs().nan_to_num(torch.inf).max())
    scale = float(theirs.abs().max())
    return difference, difference / max(scale, torch.finfo(torch.float32).tiny)


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
    theirs = dict(batch)
    if any(target.type_name() == "choice" for target in config.target):
        theirs = {name: value[:, None] for name, value in batch.items()}  # one choice a row
    return Sample(theirs, batch, (mask.bool(),))


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
    if patches is not None and not any(hasattr(each, "num_labels") for each in config.target):
        count = (patches.positions() or 1) - 1
        hidden = torch.rand((ROWS, count), generator=generator) < MASKED
        theirs["bool_masked_pos"] = ours["masked_positions"] = hidden
    return Sample(theirs, ours)


def _image_text(values: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    """Return whole texts that end with the end token, and images."""
    text = values.section("text_config") if "text_config" in values else values
    batch = _ended_text(text, config, generator).ours
    vision = values.section("vision_config") if "vision_config" in values else values
    pixels = _pixels(vision, generator)
    dual = config.embedding.part("dual") is not None
    name = "second.pixel_values" if dual else "pixel_values"
    return Sample(batch | {"pixel_values": pixels}, batch | {name: pixels})


def _ended_text(text: Values, config: ModelConfig, generator: torch.Generator) -> Sample:
    """Return whole texts that end with the end token."""
    length = max(2, min(LENGTH, config.max_position_embeddings - 1))
    end = text.integer("eos_token_id", CLIP_BEFORE_FIX)
    if end == CLIP_BEFORE_FIX or end >= config.vocab_size:
        end = config.vocab_size - 1
    ids = torch.randint(0, config.vocab_size, (ROWS, length), generator=generator)
    banned = (ids == end) | (ids == config.vocab_size - 1) | (ids == config.pad_token_id)
    ids[banned] = next(i for i in range(4) if i not in (end, config.pad_token_id))
    ids[:, -1] = end
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Sample(dict(batch), batch)


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
