"""What every component config shares, and the field type that picks a config class by its ``type``.

Imports without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from orchestrator.config import StrictModel
from orchestrator.config.messages import to_problems
from orchestrator.errors import InputError, Problem
from orchestrator.modeling.registry import Registry

Sight = Literal["past", "everything", "halves"]
"""What an output vector knows: its position and earlier ones; all positions; the past in its first
half and the future in its second."""

KEPT_VECTORS = 32
"""Vectors of the hidden size per position that a component keeps which does not say how many."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Square patches that tile a square image.

    Attributes:
        patch_size: Height and width of a patch in pixels.
        side: Patches in a row and in a column.
    """

    patch_size: int
    side: int


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

    @property
    def word_size(self) -> int:
        """Width of the word table."""
        return self.embedding_size or self.hidden_size

    @property
    def of_second(self) -> Dimensions:
        """Sizes of the second stream."""
        return self if self.second is None else self.second


class ComponentConfig(StrictModel):
    """Options of one component; a subclass has ``type: Literal["<name>"] = "<name>"``."""

    @classmethod
    def type_name(cls) -> str:
        """The name under which the component is registered."""
        return str(cls.model_fields["type"].default)

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
        """Where the module with the word table is, below this part; null: there is none."""
        return None

    @property
    def free_grid(self) -> Grid | None:
        """The patches that positions were made for, if images may have other sizes."""
        return None

    def positions(self) -> int | None:
        """Number of positions this part produces by itself; None: as many as the input has."""
        return None

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps beside the sum, for memory estimates."""
        del dimensions
        return 0


class EncoderConfig(ComponentConfig):
    """Options of an encoder."""

    two_streams: ClassVar[bool] = False
    """Whether it takes and returns ``Streams``."""

    @property
    def sight(self) -> Sight | None:
        """What an output knows of the sequence; None: not said, nothing is checked."""
        return None

    def kept_values(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps, for memory estimates.

        Args:
            dimensions: Sizes of the model.
            length: Positions in a sequence.
        """
        del length
        return KEPT_VECTORS * dimensions.hidden_size


class DecoderConfig(EncoderConfig):
    """Options of a decoder."""


def inside(path: str, problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield problems with ``path`` put before their own."""
    for problem in problems:
        yield Problem(f"{path}.{problem.path}" if problem.path else path, problem.message)


def tie_problems(dimensions: Dimensions, *, alike: bool) -> Iterator[Problem]:
    """Yield why two streams cannot share their parameters.

    Args:
        dimensions: Sizes of the model.
        alike: Whether both have the same options.
    """
    if not alike:
        yield Problem("second", "must be null if tied: both streams are the first. Or untie them.")
    if dimensions.second is not None:
        yield Problem("tie", "needs equal sizes, but `second` sets others. Remove one of them.")


class Choice:
    """Annotation of a field that holds one component of a registry.

    The input is a name (``lstm``), a mapping with ``type`` (``{type: lstm, num_layers: 2}``), or a
    config object.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._within = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        names = self.registry.names()
        if self._within:  # a component that holds one of its own kind: described once
            return {"anyOf": [{"enum": list(names)}, {"type": "object", "required": ["type"]}]}
        configs = [self.registry.config_class(name) for name in names]
        self._within = True
        try:
            options = [handler(config.__pydantic_core_schema__) for config in configs]
        finally:
            self._within = False
        return {"anyOf": [{"enum": list(names)}, *options]}

    def _validate(self, value: object) -> ComponentConfig:
        if isinstance(value, str):
            value = {"type": value}
        name = getattr(value, "type", None) if isinstance(value, ComponentConfig) else None
        if isinstance(value, Mapping):
            name = value.get("type")
        if not isinstance(name, str):
            raise _custom(f"must be a name or a mapping with `type`. {self._allowed()}")
        try:
            config = self.registry.config_class(name)
        except InputError as error:
            raise _at([Problem("type", str(error))], self.registry.kind) from error
        if isinstance(value, config):
            return value
        if isinstance(value, ComponentConfig):
            raise _custom(f"{type(value).__name__} is not a {self.registry.kind}.")
        try:
            return config.model_validate(dict(cast(Mapping[str, Any], value)))
        except ValidationError as error:
            raise _at(to_problems(config, error), self.registry.kind) from error

    def _allowed(self) -> str:
        return f"Registered {self.registry.kind}s: {', '.join(self.registry.names())}."


def _custom(message: str) -> PydanticCustomError:
    return PydanticCustomError("component", "{message}", {"message": message})


def _at(problems: Iterable[Problem], title: str) -> ValidationError:
    """Return one validation error that keeps each problem's own place and text."""
    lines = [
        InitErrorDetails(
            type=_custom(problem.message), loc=tuple(problem.path.split(".")), input=None
        )
        for problem in problems
    ]
    return ValidationError.from_exception_data(title, lines)


def _dump(value: ComponentConfig, info: core_schema.SerializationInfo) -> dict[str, Any]:
    options = value.model_dump(
        mode=info.mode,
        exclude_defaults=info.exclude_defaults,
        exclude_unset=info.exclude_unset,
        exclude_none=info.exclude_none,
    )
    return {"type": value.type_name(), **options}
