"""Options of the targets: their base class, and heads with one answer per sequence or per task.

Imports without torch.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from orchestrator.errors import Problem
from orchestrator.modeling.component import ComponentConfig, Dimensions, Visibility, targets
from orchestrator.modeling.layers.block_options import Rate

Pooling = Literal["mean", "first", "last", "max", "second", "rest"]
"""Pooling of the vectors of the real positions: their mean, the first, the last, the maximum
per channel, the second (DeiT's distillation token), the mean of all but the first (BEiT)."""

Smoothing = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Share of each answer that is spread evenly over all classes in training (Szegedy et al. 2016,
section 7); evaluations measure the plain cross entropy."""


_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class TargetConfig(ComponentConfig):
    """Options of one head with its loss; labels are read from ``batch["labels.<name>"]``."""

    two_streams: ClassVar[bool] = False
    """Whether it reads ``Streams``."""
    name: str = Field(default="", pattern=_NAME)
    """Name of the head in labels, metrics and parameters; defaults to the type."""
    weight: PositiveFloat = 1.0
    """Weight of this target's mean loss in the sum that is minimized."""

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            return {**data, "name": cls.type_name()}
        return data

    @property
    def needs_visibility(self) -> Visibility | None:
        """Most that the encoder's outputs may depend on without containing the answer."""
        return None

    @property
    def ties_words(self) -> bool:
        """Whether the output layer is the word table."""
        return False

    @property
    def reads_words(self) -> bool:
        """Whether answers are tokens, so that there must be a vocabulary."""
        return self.ties_words

    @property
    def balances(self) -> int | None:
        """Experts a token passes through, of the router that this target balances; null: none."""
        return None

    @property
    def has_loss(self) -> bool:
        """Whether there is something to learn from labels; False: the head only answers."""
        return True

    def saved_activations(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps, for memory estimates."""
        del dimensions
        return 0


@targets.register("orchestrator.modeling.targets.sequence:ClsTarget")
class ClsConfig(TargetConfig):
    """Classify the whole sequence."""

    type: Literal["cls"] = "cls"
    num_labels: int = Field(default=2, ge=2)
    """Number of classes."""
    pooling: Pooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = False
    """Put a linear layer and tanh before the classifier."""
    hidden_activation: Literal["tanh", "relu"] = "tanh"
    """Activation after the hidden layer (DistilBERT: relu)."""
    norm_eps: PositiveFloat | None = None
    """Put a LayerNorm with this eps after pooling (BEiT: 1e-12); null: none."""
    dropout: Rate = 0.1
    """Dropout rate before the classifier."""
    label_smoothing: Smoothing = 0.0
    """Share of each answer that is spread evenly over all classes, in training only."""
    class_weights: tuple[PositiveFloat, ...] | None = None
    """Factor on the loss of each class, in training only; null: 1 for all. The loss is divided by
    the number of rows, so weights whose mean over the training rows is 1 keep its scale."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """An activation needs a layer before it; every class has a weight or none has."""
        del dimensions
        yield from hidden_problems(self.hidden, self.hidden_activation)
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            yield Problem(
                "class_weights",
                f"{len(self.class_weights)} weights for {self.num_labels} classes. Give one each.",
            )


def hidden_problems(hidden: bool, activation: str) -> Iterator[Problem]:
    """Yield what is wrong with the hidden layer of a head."""
    if not hidden and activation != "tanh":
        yield Problem("hidden_activation", "needs a hidden layer. Set hidden, or leave it out.")


class PairConfig(TargetConfig):
    """Options of a head that classifies a sentence pair by the first token."""

    dropout: Rate = 0.0
    """Dropout rate before the classifier (ALBERT: 0.1)."""


@targets.register("orchestrator.modeling.targets.sequence:SpTarget")
class SpConfig(PairConfig):
    """Classify a sentence pair in two classes, whatever they mean."""

    type: Literal["sp"] = "sp"


@targets.register("orchestrator.modeling.targets.sequence:NspTarget")
class NspConfig(PairConfig):
    """Classify a second sentence as the next one (0) or a random one (1) (BERT)."""

    type: Literal["nsp"] = "nsp"


@targets.register("orchestrator.modeling.targets.sequence:SopTarget")
class SopConfig(PairConfig):
    """Classify two sentences as in order (0) or swapped (1) (ALBERT)."""

    type: Literal["sop"] = "sop"


@targets.register("orchestrator.modeling.targets.sequence:BalanceTarget")
class BalanceConfig(TargetConfig):
    """Spread tokens evenly over the experts of the encoder (Switch, Mixtral)."""

    type: Literal["balance"] = "balance"
    weight: PositiveFloat = 0.01
    """Weight of this target's mean loss in the sum that is minimized."""
    top_k: PositiveInt = 2
    """Experts that a token passes through; as in the encoder."""

    @property
    def balances(self) -> int:
        """Experts that a token passes through."""
        return self.top_k


_PACKAGE = "orchestrator.modeling.targets"


@targets.register("orchestrator.modeling.targets.sequence:ItmTarget")
class ItmConfig(TargetConfig):
    """Classify whether a text and an image match, by the first token (ViLT)."""

    type: Literal["itm"] = "itm"
    rank: bool = False
    """One score with a sigmoid in place of two classes, for retrieval."""
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""


class PooledConfig(TargetConfig):
    """Options of a head that reads one vector per sequence."""

    pooling: Pooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = False
    """Put a linear layer and tanh after pooling (BERT's pooler)."""


class AnswersConfig(PooledConfig):
    """Options of a head with several answers for a sequence."""

    hidden_activation: Literal["tanh", "relu"] = "tanh"
    """Activation after the hidden layer (DistilBERT: relu)."""
    norm_eps: PositiveFloat | None = None
    """Put a LayerNorm with this eps after pooling (BEiT: 1e-12); null: none."""
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


@targets.register("orchestrator.modeling.targets.sequence:VectorTarget")
class VectorConfig(PooledConfig):
    """Answer with one vector per sequence; has no loss and no labels (BertModel, SBERT)."""

    type: Literal["vector"] = "vector"

    @property
    def has_loss(self) -> bool:
        """Nothing is learned from labels."""
        return False


@targets.register("orchestrator.modeling.targets.sequence:StatesTarget")
class StatesConfig(TargetConfig):
    """Answer with the outputs of encoder layers, for distillation; has no loss and no labels."""

    type: Literal["states"] = "states"
    layers: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    """Layers whose outputs are returned, in order; 0: the embedding."""
    width: PositiveInt | None = None
    """Width that one linear layer projects all of them to; null: none."""

    @property
    def has_loss(self) -> bool:
        """Nothing is learned from labels."""
        return False


@targets.register("orchestrator.modeling.targets.answers:SpanTarget")
class SpanConfig(TargetConfig):
    """Find the first and the last token of an answer (BERT on SQuAD)."""

    type: Literal["span"] = "span"
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""


@targets.register("orchestrator.modeling.targets.answers:ChoiceTarget")
class ChoiceConfig(TargetConfig):
    """Choose one of several candidates, each read in a sequence of its own (BERT on SWAG)."""

    type: Literal["choice"] = "choice"
    pooling: Pooling = "first"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = True
    """Put a linear layer and tanh before the output layer (BERT's pooler)."""
    dropout: Rate = 0.1
    """Dropout rate before the output layer."""


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
