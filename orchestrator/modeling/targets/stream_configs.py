"""Options of the targets that compare two streams. Imports without torch."""

from collections.abc import Iterator
from math import log
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, inside, targets
from orchestrator.modeling.layers.block_options import Rate
from orchestrator.modeling.targets.configs import AttentionPoolingConfig, Pooling, TargetConfig

FIRST_SCALES = {"softmax": log(1 / 0.07), "sigmoid": log(10.0)}
"""First logarithm of the scale of each loss (CLIP, section 2.5; SigLIP, algorithm 1)."""


LIMITS = {"softmax": 100.0, "sigmoid": None}
"""Limits of the scale."""


FIRST_BIAS = -10.0
"""First bias of the sigmoid loss (SigLIP, algorithm 1)."""


class StreamHeadConfig(StrictModel):
    """Reduction of the vectors of one stream to the one that is compared."""

    pooling: Pooling | AttentionPoolingConfig = "first"
    """Pooling of the vectors into one; `attention` or a mapping for a learned query."""
    projection: bool = True
    """Put a linear layer after pooling."""
    bias: bool = False
    """Give that layer a bias."""

    @field_validator("pooling", mode="before")
    @classmethod
    def _attention_by_name(cls, value: Any) -> Any:
        return {"type": "attention"} if value == "attention" else value

    def width(self, hidden_size: int, projection_size: int | None) -> int:
        """Width of the result."""
        return (projection_size or hidden_size) if self.projection else hidden_size

    def check(self, hidden_size: int) -> Iterator[Problem]:
        """Heads must divide the width; a bias needs a layer."""
        if self.bias and not self.projection:
            yield Problem("bias", "needs a projection. Set projection true, or bias false.")
        if isinstance(self.pooling, AttentionPoolingConfig):
            yield from inside("pooling", self.pooling.check(hidden_size))


@targets.register("orchestrator.modeling.targets.contrastive:ClrTarget")
class ClrConfig(TargetConfig):
    """Find the other half of each pair among all pairs of the batch (CLIP, SigLIP)."""

    two_streams: ClassVar[bool] = True
    type: Literal["clr"] = "clr"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Choose the right one in both directions (CLIP), or answer yes or no for each two (SigLIP)."""
    first: StreamHeadConfig = StreamHeadConfig()
    """Head of the first stream."""
    second: StreamHeadConfig | None = None
    """Head of the second stream; null: options as in the first, parameters of its own."""
    projection_size: PositiveInt | None = None
    """Width of the projections; null: the width of each stream."""
    logit_scale: float | None = None
    """First value of the logarithm of the learned scale; null: ln(1 / 0.07) or, for sigmoid, ln 10.
    """
    logit_bias: float | None = None
    """First value of the learned bias of the sigmoid loss; null: -10."""
    max_scale: PositiveFloat | None = None
    """Limit of the scale while training; null: 100 (CLIP, section 2.5) or, for sigmoid, none."""

    @property
    def of_second(self) -> StreamHeadConfig:
        """The second stream's options."""
        return self.first if self.second is None else self.second

    @property
    def first_scale(self) -> float:
        """First value of the logarithm of the scale."""
        return FIRST_SCALES[self.loss] if self.logit_scale is None else self.logit_scale

    @property
    def scale_limit(self) -> float | None:
        """Limit of the logarithm of the scale, if there is one."""
        limit = LIMITS[self.loss] if self.max_scale is None else self.max_scale
        return None if limit is None else log(limit)

    @property
    def first_bias(self) -> float:
        """First value of the bias."""
        return FIRST_BIAS if self.logit_bias is None else self.logit_bias

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Both heads must end in the same width; only the sigmoid loss has a bias."""
        sizes = (dimensions.hidden_size, dimensions.of_second.hidden_size)
        heads = (self.first, self.of_second)
        names = ("first", "first" if self.second is None else "second")
        for name, head, size in zip(names, heads, sizes, strict=True):
            for problem in head.check(size):
                yield Problem(f"{name}.{problem.path}", problem.message)
        widths = [
            head.width(size, self.projection_size) for head, size in zip(heads, sizes, strict=True)
        ]
        if widths[0] != widths[1]:
            yield Problem(
                "projection_size",
                f"the streams end with widths {widths[0]} and {widths[1]}. Project both to one.",
            )
        if self.projection_size is not None and not any(head.projection for head in heads):
            yield Problem("projection_size", "is not used: no stream has a projection. Remove it.")
        if self.logit_bias is not None and self.loss != "sigmoid":
            yield Problem("logit_bias", "is for the sigmoid loss. Remove it.")


Feature = Literal["first", "second", "difference", "product"]
"""u, v, |u - v| and u * v of the two vectors."""


@targets.register("orchestrator.modeling.targets.contrastive:SiameseTarget")
class SiameseConfig(TargetConfig):
    """Classify a pair from the vectors of its halves (SBERT, InferSent)."""

    two_streams: ClassVar[bool] = True
    type: Literal["siamese"] = "siamese"
    num_labels: int = Field(default=2, ge=2)
    """Number of classes."""
    pooling: Pooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    features: tuple[Feature, ...] = ("first", "second", "difference")
    """Inputs of the classifier, in this order (InferSent: also `product`)."""
    dropout: Rate = 0.1
    """Dropout rate before the classifier."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Vectors are compared channel by channel; each feature is named once."""
        widths = (dimensions.hidden_size, dimensions.of_second.hidden_size)
        if widths[0] != widths[1]:
            yield Problem("type", f"needs streams of equal width, found {widths[0]}, {widths[1]}.")
        if not self.features or len(set(self.features)) != len(self.features):
            yield Problem("features", f"{list(self.features)}: name one or more, each once.")
