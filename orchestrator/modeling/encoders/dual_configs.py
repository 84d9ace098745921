"""Options of the encoder of two streams. Imports without torch."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from orchestrator.errors import Problem
from orchestrator.modeling.component import (
    Choice,
    Dimensions,
    EncoderConfig,
    inside,
    tie_problems,
)
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.registry import encoders

Single = Annotated[EncoderConfig, Choice(encoders)]
"""An encoder: a name or a mapping with ``type``."""


@encoders.register("orchestrator.modeling.encoders.dual:DualEncoder")
class DualEncoderConfig(EncoderConfig):
    """Encode two streams, each by its own encoder or both by one."""

    two_streams: ClassVar[bool] = True
    type: Literal["dual"] = "dual"
    first: Single = TransformerConfig()
    """Encoder of the first stream."""
    second: Single | None = None
    """Encoder of the second stream; null: like the first."""
    tie: bool = False
    """Use the first stream's encoder for both (SBERT)."""

    @property
    def of_second(self) -> EncoderConfig:
        """The second stream's options."""
        return self.first if self.second is None else self.second

    def kept_values(self, dimensions: Dimensions, length: int) -> int:
        """Values per position of both streams that the backward pass keeps."""
        return self.first.kept_values(dimensions, length) + self.of_second.kept_values(
            dimensions.of_second, length
        )

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Each encoder must fit its stream's sizes; tied ones are one."""
        yield from inside("first", self.first.check(dimensions))
        if self.second is not None or dimensions.second is not None:
            yield from inside("second", self.of_second.check(dimensions.of_second))
        if self.tie:
            yield from tie_problems(dimensions, alike=self.second is None)
        for name, encoder in (("first", self.first), ("second", self.of_second)):
            if encoder.two_streams:
                yield Problem(f"{name}.type", "'dual' reads two streams. Name a single encoder.")
