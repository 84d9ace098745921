"""Inputs that a model reads, from its config. Imports without torch."""

from orchestrator.data.media.inputs import ModelInputs, PictureInput, SoundInput, SoundKind
from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import ImageConfig, SpeechConfig, WaveformConfig
from orchestrator.modeling.embeddings.stack_config import (
    DualEmbeddingConfig,
    EmbeddingStackConfig,
    WordPatchConfig,
)
from orchestrator.modeling.targets.token_configs import CtcConfig, MimConfig


def streams_of(model: ModelConfig) -> tuple[EmbeddingStackConfig, ...]:
    """Return the stack of each input: two of a dual model, and of one with text and picture."""
    part = model.embedding.parts[0] if model.embedding.parts else None
    if isinstance(part, DualEmbeddingConfig):
        return part.first, part.of_second
    if isinstance(part, WordPatchConfig):
        return part.text, part.image
    return (model.embedding,)


def reader_of(stack: EmbeddingStackConfig) -> EmbeddingConfig | None:
    """Return the part that reads the input."""
    return stack.parts[0] if stack.parts else None


def inputs_of(model: ModelConfig) -> ModelInputs:
    """Return the inputs of a model other than tokens."""
    readers = [reader_of(stack) for stack in streams_of(model)]
    picture = next((part for part in readers if isinstance(part, ImageConfig)), None)
    codes = [target.num_codes for target in model.target if isinstance(target, MimConfig)]
    return ModelInputs(
        picture=None if picture is None else picture_of(picture),
        sound=sound_of(model),
        text_first=not isinstance(readers[0], ImageConfig),
        codes=max(codes, default=0),
        aligned=any(isinstance(target, CtcConfig) for target in model.target),
    )


def picture_of(part: ImageConfig) -> PictureInput:
    """Return the pictures that a part reads."""
    tokens = part.positions() - part.side**2
    return PictureInput(part.image_size, part.channels, part.patch_size, tokens)


def sound_of(model: ModelConfig) -> SoundInput | None:
    """Return the recordings that a model reads, if it does."""
    part = reader_of(model.embedding)
    room = model.embedding.max_position_embeddings or model.max_position_embeddings
    if isinstance(part, WaveformConfig):
        return SoundInput("wav2vec2", 0, part.kernels, part.strides, room)
    if not isinstance(part, SpeechConfig):
        return None
    kind: SoundKind = "speech2text" if part.activation == "glu" else "whisper"
    return SoundInput(kind, part.mel_bins, part.kernels, part.strides, room)


def reads_pictures(model: ModelConfig) -> bool:
    """Return whether an input of a model is pictures."""
    return any(isinstance(reader_of(stack), ImageConfig) for stack in streams_of(model))


def reads_sounds(model: ModelConfig) -> bool:
    """Return whether a model's input is sounds."""
    return inputs_of(model).sound is not None
