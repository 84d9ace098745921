"""Options of the heads for extracted answers, multiple choice and similarity. No torch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, targets
from orchestrator.modeling.layers.block_options import Rate
from orchestrator.modeling.targets.configs import Pooling, TargetConfig

_MODULE = "orchestrator.modeling.targets.task_heads"


@targets.register(f"{_MODULE}:SpanTarget")
class SpanConfig(TargetConfig):
    """Find the first and the last token of an answer (BERT on SQuAD)."""

    type: Literal["span"] = "span"
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""


@targets.register(f"{_MODULE}:ChoiceTarget")
class ChoiceConfig(TargetConfig):
    """Choose one of several candidates, each read in a sequence of its own (BERT on SWAG)."""

    type: Literal["choice"] = "choice"
    pooling: Pooling = "first"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = True
    """Put a linear layer and tanh before the output layer (BERT's pooler)."""
    dropout: Rate = 0.1
    """Dropout rate before the output layer."""


@targets.register(f"{_MODULE}:SimilarityTarget")
class SimilarityConfig(TargetConfig):
    """One vector per text, near to those of similar texts (SBERT, SimCSE)."""

    type: Literal["similarity"] = "similarity"
    pooling: Pooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    projection_size: PositiveInt | None = None
    """Width of a linear layer after pooling; null: none."""
    loss: Literal["contrastive", "cosine"] = "contrastive"
    """contrastive: find the partner among the pairs of the batch; cosine: the squared distance of
    the cosine to the score of the pair."""
    temperature: PositiveFloat = 0.05
    """Cosines are divided by this in the contrastive loss (SimCSE, section 3; SBERT: 1 / 20)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """A temperature belongs to the contrastive loss."""
        del dimensions
        default = type(self).model_fields["temperature"].default
        if self.loss == "cosine" and self.temperature != default:  # stored configs have every key
            yield Problem("temperature", "is for the contrastive loss. Remove it.")
