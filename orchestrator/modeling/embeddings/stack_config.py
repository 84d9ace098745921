"""Options of a stack of embedding parts, and of the parts that are made of stacks.

Imports without torch.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.config.registry import Choice
from orchestrator.errors import Problem
from orchestrator.modeling.component import (
    Dimensions,
    EmbeddingConfig,
    Grid,
    embeddings,
    inside,
    tie_problems,
)
from orchestrator.modeling.embeddings.configs import (
    ImageConfig,
    PatchConfig,
    PosConfig,
    SegConfig,
    WordConfig,
)

Part = Annotated[EmbeddingConfig, Choice(embeddings)]
"""One part of an embedding: a name or a mapping with ``type``."""


class EmbeddingStackConfig(StrictModel):
    """Parts that are summed, then normalized, then dropped out."""

    parts: tuple[Part, ...] = (WordConfig(), PosConfig(), SegConfig())
    """Names or mappings; each type once. The first one decides the number of positions."""
    layernorm: bool = True
    """Normalize the sum."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside the LayerNorm (BERT: 1e-12)."""
    norm_bias: bool = True
    """Give the LayerNorm a bias (ModernBERT: none)."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout rate on the result."""
    size: PositiveInt | None = None
    """Width of the parts, brought to hidden_size by a linear layer (ALBERT, ELECTRA); null:
    hidden_size, without a linear layer."""
    projection: Literal["last", "first", "none"] = "last"
    """That linear layer comes after norm and dropout and has a bias, or before them and has none
    (DeBERTa); none: the encoder reads the parts' width (`input_size` of recurrent encoders and
    gatedcnn)."""
    registers: NonNegativeInt = 0
    """Learned vectors put after the class token of an image, without positions (DINOv2)."""
    max_position_embeddings: PositiveInt | None = None
    """Longest sequence on this side, in positions (Whisper: 1500, beside 448 on the target side);
    null: the model's."""

    def part(self, name: str) -> EmbeddingConfig | None:
        """Return the part of that type, if it is listed."""
        return next((part for part in self.parts if part.type_name() == name), None)

    def width(self, hidden_size: int) -> int:
        """Width of the result, in a model of that hidden size."""
        return hidden_size if self.size is None or self.projection != "none" else self.size

    @property
    def reads_words(self) -> bool:
        """Whether a part looks up tokens, so that there must be a vocabulary."""
        return any(part.reads_words for part in self.parts)

    @property
    def word_table(self) -> str | None:
        """Path from this stack to the module with the word table; None: there is none."""
        tables = ((part.type_name(), part.word_table) for part in self.parts)
        found = (f"{name}.{table}".strip(".") for name, table in tables if table is not None)
        return next(found, None)

    @property
    def looks_ahead(self) -> bool:
        """Whether a vector knows of later positions."""
        return any(part.looks_ahead for part in self.parts)

    @property
    def two_streams(self) -> bool:
        """Whether the result is a pair (``Streams``)."""
        return any(part.two_streams for part in self.parts)

    @property
    def free_grid(self) -> Grid | None:
        """The patches that positions were made for, if images may have other sizes."""
        return next((part.free_grid for part in self.parts if part.free_grid), None)

    def dimensions_of_parts(self, dimensions: Dimensions) -> Dimensions:
        """Return the sizes that the parts see."""
        width = self.size or dimensions.hidden_size
        length = self.max_position_embeddings or dimensions.max_position_embeddings
        return replace(
            dimensions, hidden_size=width, max_position_embeddings=length, grid=self.free_grid
        )

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Yield what is wrong with the parts; paths are relative to this stack."""
        dimensions = self.dimensions_of_parts(dimensions)
        if not self.parts:
            yield Problem("parts", "is empty. Name at least one part, for example `word`.")
        names = [part.type_name() for part in self.parts]
        for index, part in enumerate(self.parts):
            if part.reads_content != (index == 0):
                rule = "The first part reads the input (word, patch), the others add to it."
                yield Problem(f"parts.{index}", f"{names[index]!r} cannot stand here. {rule}")
            if names.index(names[index]) != index:
                yield Problem(f"parts.{index}", f"{names[index]!r} is listed twice. Keep one.")
            yield from inside(f"parts.{index}", part.check(dimensions))
            needed = part.positions()
            if needed is not None and needed > dimensions.max_position_embeddings:
                yield Problem(
                    f"parts.{index}",
                    f"{names[index]!r} makes {needed} positions, more than max_position_embeddings "
                    f"({dimensions.max_position_embeddings}). Set it to {needed} or more.",
                )
        if dimensions.grid is not None and "pos" not in names:
            yield Problem(
                "parts.0.interpolate",
                "needs a `pos` part, whose table is interpolated. Add one, or set it false.",
            )
        if self.projection != "last" and self.size is None:
            yield Problem("projection", "there is none without size. Set size, or leave it out.")
        first = self.parts[0] if self.parts else None
        if self.registers and not (isinstance(first, ImageConfig) and first.class_token):
            yield Problem("registers", "follow the class token of an image. Set them to 0.")
        if self.registers and self.size is not None:
            yield Problem("registers", "need parts of the model's width. Leave size out.")
        yield from self._alone(names)

    def _alone(self, names: list[str]) -> Iterator[Problem]:
        """Yield what stands beside a part that makes two streams: each stream has its own."""
        if not self.two_streams:
            return
        rule = "Each stream of `dual` has its own: set it in `first` and `second`."
        if len(names) > 1:
            others = ", ".join(name for name in names if name != "dual")
            yield Problem("parts", f"`dual` stands alone, found {others} beside it. {rule}")
        if self.layernorm:
            yield Problem("layernorm", f"must be false beside `dual`. {rule}")
        if self.dropout:
            yield Problem("dropout", f"{self.dropout} must be 0 beside `dual`. {rule}")
        if self.size is not None:
            yield Problem("size", f"{self.size} must be null beside `dual`. {rule}")


@embeddings.register("orchestrator.modeling.embeddings.stack:DualEmbedding")
class DualEmbeddingConfig(EmbeddingConfig):
    """Embed two inputs, each by its own stack; stands alone (CLIP, SBERT)."""

    reads_content: ClassVar[bool] = True
    two_streams: ClassVar[bool] = True
    type: Literal["dual"] = "dual"
    first: EmbeddingStackConfig = EmbeddingStackConfig()
    """Embedding of the first stream."""
    second: EmbeddingStackConfig | None = None
    """Embedding of the second stream, which reads the keys with the prefix `second.`; null: like
    the first."""
    tie: bool = False
    """Use the first stream's embedding for both (SBERT)."""
    norms: tuple[Literal["first", "second"], ...] = ()
    """Streams whose stack is followed by a LayerNorm of their own (TencentPretrain)."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside these."""

    @property
    def of_second(self) -> EmbeddingStackConfig:
        """The second stream's options."""
        return self.first if self.second is None else self.second

    @property
    def reads_words(self) -> bool:
        """Whether a stream looks up tokens."""
        return self.first.reads_words or self.of_second.reads_words

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Each stream must fit its sizes; tied ones are one."""
        yield from inside("first", self.first.check(dimensions))
        if self.second is not None:
            yield from inside("second", self.second.check(dimensions.of_second))
        if self.tie:
            yield from tie_problems(dimensions, same_options=self.second is None)
        for name, stack in (("first", self.first), ("second", self.of_second)):
            if stack.two_streams:
                yield Problem(f"{name}.parts", "is a single stream. Take `dual` out of it.")
            if stack.projection == "none":
                yield Problem(f"{name}.projection", "'none' is not for a stream of `dual`.")
            if stack.registers:
                yield Problem(f"{name}.registers", "are not for two streams. Set them to 0.")
        if len(set(self.norms)) != len(self.norms):
            yield Problem("norms", f"{list(self.norms)}: name each stream once.")


@embeddings.register("orchestrator.modeling.embeddings.patch:WordPatchEmbedding")
class WordPatchConfig(EmbeddingConfig):
    """Embed a text and an image, one after the other in a single sequence (ViLT)."""

    reads_content: ClassVar[bool] = True
    type: Literal["word_patch"] = "word_patch"
    text: EmbeddingStackConfig = EmbeddingStackConfig()
    """Embedding of the text, which comes first."""
    image: EmbeddingStackConfig = EmbeddingStackConfig(
        parts=(PatchConfig(), PosConfig()), layernorm=False
    )
    """Embedding of the image, which reads `pixel_values`."""
    modalities: bool = True
    """Add a learned vector to every position of the text, and another one to those of the image."""

    @property
    def reads_words(self) -> bool:
        """Whether the text's part looks up tokens."""
        return self.text.reads_words

    @property
    def word_table(self) -> str | None:
        """Path from this part to the word table."""
        return None if self.text.word_table is None else f"text.{self.text.word_table}"

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Both must fit their sizes, be what they are called, and have the model's width."""
        yield from inside("text", self.text.check(dimensions))
        yield from inside("image", self.image.check(dimensions))
        if self.text.word_table is None:
            yield Problem("text.parts", "reads no tokens. Put `word` first.")
        if not (self.image.parts and isinstance(self.image.parts[0], ImageConfig)):
            yield Problem("image.parts", "reads no image. Put `patch` or `masked_patch` first.")
        for name, stack in (("text", self.text), ("image", self.image)):
            if stack.registers:
                yield Problem(f"{name}.registers", "are not for text and image. Set them to 0.")
            if stack.size is not None:
                yield Problem(f"{name}.size", "must be null: both are as wide as the model.")
