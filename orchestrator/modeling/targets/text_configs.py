"""Options of targets for tags, several labels, numbers and vectors. Imports without torch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.block_options import Activation, Rate
from orchestrator.modeling.registry import targets
from orchestrator.modeling.targets.configs import Pooling, TargetConfig, hidden_problems


@targets.register("orchestrator.modeling.targets.tokens:TagsTarget")
class TagsConfig(TargetConfig):
    """Classify every token (names, parts of speech)."""

    type: Literal["tags"] = "tags"
    num_labels: int = Field(default=2, ge=2)
    """Number of classes."""
    dropout: Rate = 0.1
    """Dropout rate before the classifier."""


@targets.register("orchestrator.modeling.targets.tokens:RtdTarget")
class RtdConfig(TargetConfig):
    """Tell original tokens (0) from replaced ones (1) at every position (ELECTRA)."""

    type: Literal["rtd"] = "rtd"
    activation: Activation = "gelu"
    """Activation between the two linear layers."""

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: both sides of the hidden layer."""
        return 3 * dimensions.hidden_size


class PooledConfig(TargetConfig):
    """Options of a head that reads one vector per sequence."""

    pooling: Pooling = "mean"
    """How the vectors of a sequence become one."""
    hidden: bool = False
    """Put a linear layer and tanh after pooling (BERT's pooler)."""


class AnswersConfig(PooledConfig):
    """Options of a head with several answers for a sequence."""

    hidden_activation: Literal["tanh", "relu"] = "tanh"
    """What follows the hidden layer in place of tanh (DistilBERT: relu)."""
    dropout: Rate = 0.1
    """Dropout rate before the output layer."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """An activation needs a layer before it."""
        del dimensions
        yield from hidden_problems(self.hidden, self.hidden_activation)


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


@targets.register("orchestrator.modeling.targets.vector:VectorTarget")
class VectorConfig(PooledConfig):
    """Answer with one vector per sequence; has no loss and no labels (BertModel, SBERT)."""

    type: Literal["vector"] = "vector"

    @property
    def has_loss(self) -> bool:
        """Nothing is learnt from labels."""
        return False
