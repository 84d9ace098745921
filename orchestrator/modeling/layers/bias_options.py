"""Options of what attention adds to its scores by distance. Imports without torch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem


class T5BiasConfig(StrictModel):
    """A learned bias for each bucket of distances and head, shared by all layers (T5)."""

    type: Literal["t5"] = "t5"
    buckets: PositiveInt = 32
    """Number of buckets; half of them for each direction where both sides are read."""
    max_distance: PositiveInt = 128
    """Larger distances share the last bucket."""


class AlibiConfig(StrictModel):
    """Scores fall linearly with distance, at a fixed rate for each head (BLOOM)."""

    type: Literal["alibi"] = "alibi"


class PatchBiasConfig(StrictModel):
    """A learned bias for each offset between patches of an image and head (BEiT)."""

    type: Literal["patches"] = "patches"
    rows: PositiveInt
    """Patches in a column of the image."""
    columns: PositiveInt
    """Patches in a row of the image."""
    shared: bool = False
    """One table for all layers; otherwise one in each."""


class DisentangledConfig(StrictModel):
    """Scores of content against a learned vector for each distance (DeBERTa)."""

    type: Literal["disentangled"] = "disentangled"
    max_distance: PositiveInt = 512
    """Larger distances share the vector of this one."""
    buckets: int | None = Field(default=None, ge=4)
    """Vectors for each direction: half of them have one distance each, the others grow like a
    logarithm up to max_distance (DeBERTa-v2: 256); null: each distance has one."""
    content_to_position: bool = True
    """Compare queries with distances."""
    position_to_content: bool = True
    """Compare keys with distances."""
    shared_projections: bool = False
    """Project distances by the layers that project tokens, not by layers of their own."""
    norm: bool = False
    """Normalize the vectors (DeBERTa-v2)."""

    @property
    def span(self) -> int:
        """Vectors for each direction."""
        return self.buckets or self.max_distance

    @property
    def num_terms(self) -> int:
        """Terms that are added to the scores."""
        return self.content_to_position + self.position_to_content

    def rows_in_use(self, length: int) -> int:
        """Return about how many vectors a sequence reads."""
        return min(2 * length - 1, 2 * self.span)

    def check(self) -> Iterator[Problem]:
        """Distances must be compared with something; buckets must leave some to share."""
        if not self.num_terms:
            yield Problem(
                "content_to_position",
                "and position_to_content are false: nothing reads distances. Leave one out.",
            )
        if self.buckets is not None and self.max_distance <= self.buckets // 2 + 1:
            yield Problem(
                "buckets",
                f"{self.buckets}: half of them reach max_distance ({self.max_distance}). "
                "Use fewer, or null.",
            )


PositionBiasConfig = T5BiasConfig | AlibiConfig | PatchBiasConfig | DisentangledConfig
