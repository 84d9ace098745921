"""Base configs of all components, and the registry of each kind. Imports without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.errors import Problem

Visibility = Literal["past", "everything", "halves"]
"""Inputs that an output vector depends on: its position and earlier ones; all positions; the past
in its first half and the future in its second."""

DEFAULT_SAVED_ACTIVATIONS = 32
"""Saved activations per position (in hidden sizes) of components that do not report their own."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Square patches that tile a square image.

    Attributes:
        patch_size: Height and width of a patch in pixels.
        side: Patches in a row and in a column.
        antialias: Whether positions are interpolated with antialiasing.
    """

    patch_size: int
    side: int
    antialias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of the model that its components share."""

    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    pad_token_id: int
    embedding_size: int = 0
    """Width of the word table that output layers may be tied to; 0: hidden_size."""
    second: Dimensions | None = None
    """Sizes of the second stream of a dual model, where they differ."""
    grid: Grid | None = None
    """Patches that a position table was made for, in a stack whose images may have other sizes."""
    registers: int = 0
    """Learned vectors after the class token of an image."""

    @property
    def word_size(self) -> int:
        """Width of the word table."""
        return self.embedding_size or self.hidden_size

    @property
    def of_second(self) -> Dimensions:
        """Sizes of the second stream."""
        return self if self.second is None else self.second


class ComponentConfig(EntryConfig):
    """Options of one component; a subclass has ``type: Literal["<name>"] = "<name>"``."""

    def check(self, dimensions: Dimensions) -> Iterable[Problem]:
        """Yield what does not fit the model's sizes; paths are relative to this component."""
        del dimensions
        return ()


class EmbeddingConfig(ComponentConfig):
    """Options of one part of an embedding."""

    reads_content: ClassVar[bool] = False
    """Whether the part reads the input itself; exactly the first part of an embedding does."""
    looks_ahead: ClassVar[bool] = False
    """Whether a vector knows of later positions; no decoder can use it."""
    two_streams: ClassVar[bool] = False
    """Whether the part returns ``Streams``; it then stands alone."""

    @property
    def reads_words(self) -> bool:
        """Whether the part looks up tokens, so that there must be a vocabulary."""
        return False

    @property
    def word_table(self) -> str | None:
        """Path from this part to the module with the word table; None: there is none."""
        return None

    @property
    def free_grid(self) -> Grid | None:
        """The patches that positions were made for, if images may have other sizes."""
        return None

    def positions(self) -> int | None:
        """Number of positions this part produces by itself; None: as many as the input has."""
        return None

    def saved_activations(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps beside the sum, for memory estimates."""
        del dimensions
        return 0


class EncoderConfig(ComponentConfig):
    """Options of an encoder."""

    two_streams: ClassVar[bool] = False
    """Whether it takes and returns ``Streams``."""

    @property
    def visibility(self) -> Visibility | None:
        """Inputs that an output depends on; None: unknown, nothing is checked."""
        return None

    def saved_activations(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps, for memory estimates.

        Args:
            dimensions: Sizes of the model.
            length: Positions in a sequence.
        """
        del length
        return DEFAULT_SAVED_ACTIVATIONS * dimensions.hidden_size


class DecoderConfig(EncoderConfig):
    """Options of a decoder."""


def inside(path: str, problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield problems with ``path`` put before their own."""
    for problem in problems:
        yield Problem(f"{path}.{problem.path}" if problem.path else path, problem.message)


def tie_problems(dimensions: Dimensions, *, same_options: bool) -> Iterator[Problem]:
    """Yield why two streams cannot share their parameters.

    Args:
        dimensions: Sizes of the model.
        same_options: Whether both have the same options.
    """
    if not same_options:
        yield Problem("second", "must be null if tied: both streams are the first. Or untie them.")
    if dimensions.second is not None:
        yield Problem("tie", "needs equal sizes, but `second` sets others. Remove one of them.")


embeddings = Registry("embedding", EmbeddingConfig)
encoders = Registry("encoder", EncoderConfig)
decoders = Registry("decoder", DecoderConfig)
targets = Registry("target", ComponentConfig)
target_embeddings = embeddings
"""A target embedding is an embedding in another place: both kinds share one table."""
