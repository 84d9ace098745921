"""Options of the targets of labelled tasks: several labels, numbers, an extracted answer, a choice.

Imports without torch.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, targets
from orchestrator.modeling.layers.block_options import Rate
from orchestrator.modeling.targets.configs import (
    HeadActivation,
    Pooling,
    SequenceHeadConfig,
    TargetConfig,
    TransformConfig,
    hidden_problems,
    transform_problems,
)


class AnswersConfig(SequenceHeadConfig):
    """Options of a head with several answers for a sequence."""


@targets.register("orchestrator.modeling.targets.answers:MultilabelTarget")
class MultilabelConfig(AnswersConfig):
    """Say yes or no to each of several labels of a sequence."""

    type: Literal["multilabel"] = "multilabel"
    num_labels: PositiveInt = 2
    """Number of labels, each true or not."""


@targets.register("orchestrator.modeling.targets.answers:RegressionTarget")
class RegressionConfig(AnswersConfig):
    """Predict numbers for a sequence, with the squared error as loss."""

    type: Literal["regression"] = "regression"
    num_labels: PositiveInt = 1
    """Numbers per sequence."""
    tolerance: PositiveFloat = 0.5
    """An answer at most this far from the label counts as correct."""


@targets.register("orchestrator.modeling.targets.answers:SpanTarget")
class SpanConfig(TargetConfig):
    """Find the first and the last token of an answer (BERT on SQuAD)."""

    type: Literal["span"] = "span"
    transform: TransformConfig | None = None
    """Linear layer, activation, norm before the output layer; null: none."""
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Options of a norm need one."""
        yield from transform_problems(self.transform, dimensions)


@targets.register("orchestrator.modeling.targets.answers:ChoiceTarget")
class ChoiceConfig(TargetConfig):
    """Choose one of several candidates, each read in a sequence of its own (BERT on SWAG)."""

    type: Literal["choice"] = "choice"
    pooling: Pooling = "first"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = True
    """Put a linear layer and an activation before the output layer (BERT's pooler)."""
    hidden_activation: HeadActivation = "tanh"
    """Activation after the hidden layer (DistilBERT: relu, ELECTRA: gelu)."""
    transform: TransformConfig | None = None
    """In place of the hidden layer: linear layer, activation, norm; null: none."""
    dropout: Rate = 0.1
    """Dropout rate before the output layer."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """An activation needs a layer before it."""
        yield from hidden_problems(self.hidden, self.hidden_activation)
        yield from transform_problems(self.transform, dimensions, hidden=self.hidden)


@targets.register("orchestrator.modeling.targets.answers:SimilarityTarget")
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
