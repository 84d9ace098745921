"""Options of the targets: their base class, and heads with one answer per sequence or per task.

Imports without torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.modeling.component import (
    ComponentConfig,
    Dimensions,
    Visibility,
    inside,
    targets,
)
from orchestrator.modeling.layers.block_options import Activation, Rate

Pooling = Literal["mean", "first", "last", "max", "second", "rest"]
"""Pooling of the vectors of the real positions: their mean, the first, the last, the maximum
per channel, the second (DeiT's distillation token), the mean of all but the first (BEiT)."""

HeadPooling = Pooling | Literal["last_token", "first_rest"]
"""Also the last real position whose token is not the padding token (classifiers of LLaMA), and the
first beside the mean of the rest (DINOv2), a vector of twice the width."""

HeadActivation = Literal["tanh", "relu", "gelu", "none"]
"""Activation after the hidden layer of a head."""

Smoothing = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Share of each answer that is spread evenly over all classes in training (Szegedy et al. 2016,
section 7); evaluations measure the plain cross entropy."""


class AttentionPoolingConfig(StrictModel):
    """A learned query reads all positions, followed by a feed-forward (SigLIP's images)."""

    type: Literal["attention"] = "attention"
    num_heads: PositiveInt = 4
    """Number of heads."""
    intermediate_size: PositiveInt | None = None
    """Width inside the feed-forward; null: 4 times the stream's width."""
    activation: Activation = "gelu_tanh"
    """Activation of the feed-forward."""
    norm_eps: PositiveFloat = 1e-6
    """Added to the variance inside the LayerNorm before the feed-forward."""

    def check(self, width: int) -> Iterator[Problem]:
        """Heads must divide the width."""
        if width % self.num_heads:
            yield Problem("num_heads", f"{self.num_heads} does not divide the width ({width}).")


class TransformConfig(StrictModel):
    """A linear layer, an activation and a norm before the output layer of a head (ModernBERT)."""

    activation: Activation = "gelu"
    """Activation after the linear layer."""
    bias: bool = True
    """Give the linear layer a bias."""
    norm_eps: PositiveFloat | None = None
    """Put a LayerNorm with this eps after the activation; null: none."""
    norm_bias: bool = True
    """Give that LayerNorm a bias."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """A bias needs its norm."""
        del dimensions
        if self.norm_eps is None and not self.norm_bias:
            yield Problem("norm_bias", "there is no norm. Set norm_eps, or leave it out.")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLayout:
    """Layers of a head that reads one vector per sequence; see `SequenceHeadConfig`."""

    pooling: HeadPooling
    hidden: bool
    activation: HeadActivation = "tanh"
    inner: int | None = None
    norm_eps: float | None = None
    dropout: float = 0.0
    bias: bool = True
    transform: TransformConfig | None = None
    pools_last: bool = False


class SequenceHeadConfig(TargetConfig):
    """Options of a head with an output layer over one vector per sequence."""

    pooling: HeadPooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = False
    """Put a linear layer and an activation after pooling (BERT's pooler)."""
    hidden_activation: HeadActivation = "tanh"
    """Activation after the hidden layer (DistilBERT: relu, ELECTRA: gelu, wav2vec 2.0: none)."""
    hidden_size: PositiveInt | None = None
    """Width of the hidden layer (wav2vec 2.0: 256); null: that of the vector."""
    norm_eps: PositiveFloat | None = None
    """Put a LayerNorm with this eps after pooling (BEiT: 1e-12); null: none."""
    dropout: Rate = 0.1
    """Dropout rate before the output layer."""
    output_bias: bool = True
    """Give the output layer a bias (LLaMA's classifier: false)."""
    transform: TransformConfig | None = None
    """In place of the hidden layer: linear layer, activation, norm; null: none."""
    pools_last: bool = False
    """Pool what the transform makes of each vector, not the vectors (EuroBERT's late pooling)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Options of the hidden layer need one."""
        yield from hidden_problems(self.hidden, self.hidden_activation, self.hidden_size)
        yield from transform_problems(self.transform, dimensions, hidden=self.hidden)
        if self.pools_last and (self.transform is None or self.norm_eps is not None):
            yield Problem("pools_last", "needs a transform, and no norm_eps. Leave it out.")
        if self.pools_last and self.pooling == "first_rest":
            yield Problem("pooling", "first_rest is as wide as two vectors. Set pools_last false.")

    @property
    def layout(self) -> HeadLayout:
        """The layers."""
        return HeadLayout(
            pooling=self.pooling,
            hidden=self.hidden,
            activation=self.hidden_activation,
            inner=self.hidden_size,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            bias=self.output_bias,
            transform=self.transform,
            pools_last=self.pools_last,
        )


def transform_problems(
    transform: TransformConfig | None, dimensions: Dimensions, *, hidden: bool = False
) -> Iterator[Problem]:
    """Yield what is wrong with the transform of a head."""
    if transform is not None:
        yield from inside("transform", transform.check(dimensions))
        if hidden:
            yield Problem("transform", "is in place of the hidden layer. Set `hidden: false`.")


def hidden_problems(hidden: bool, activation: str, size: int | None = None) -> Iterator[Problem]:
    """Yield what is wrong with the hidden layer of a head."""
    if not hidden and activation != "tanh":
        yield Problem("hidden_activation", "needs a hidden layer. Set hidden, or leave it out.")
    if not hidden and size is not None:
        yield Problem("hidden_size", "needs a hidden layer. Set hidden, or leave it out.")


@targets.register("orchestrator.modeling.targets.sequence:ClsTarget")
class ClsConfig(SequenceHeadConfig):
    """Classify the whole sequence."""

    type: Literal["cls"] = "cls"
    num_labels: int = Field(default=2, ge=2)
    """Number of classes."""
    label_smoothing: Smoothing = 0.0
    """Share of each answer that is spread evenly over all classes, in training only."""
    class_weights: tuple[PositiveFloat, ...] | None = None
    """Factor on the loss of each class, in training only; null: 1 for all. The loss is divided by
    the number of rows, so weights whose mean over the training rows is 1 keep its scale."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """An activation needs a layer before it; every class has a weight or none has."""
        yield from super().check(dimensions)
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            yield Problem(
                "class_weights",
                f"{len(self.class_weights)} weights for {self.num_labels} classes. Give one each.",
            )


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


@targets.register("orchestrator.modeling.targets.sequence:VectorTarget")
class VectorConfig(TargetConfig):
    """Answer with one vector per sequence; has no loss and no labels (BertModel, SBERT)."""

    type: Literal["vector"] = "vector"
    pooling: Pooling = "mean"
    """Pooling of the vectors of a sequence into one."""
    hidden: bool = False
    """Put a linear layer and tanh after pooling (BERT's pooler)."""
    norm_eps: PositiveFloat | None = None
    """Put a LayerNorm with this eps after pooling (CLIP's images: 1e-5); null: none."""
    projection_size: PositiveInt | None = None
    """Width of a linear layer at the end (CLIP: 512); null: none."""
    projection_bias: bool = False
    """Give that layer a bias (SigLIP's texts)."""
    attention: AttentionPoolingConfig | None = None
    """A learned query that reads all positions, in place of `pooling` (SigLIP's images)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """A bias needs a layer; heads must divide the width; a query replaces the other layers."""
        if self.projection_bias and self.projection_size is None:
            yield Problem("projection_bias", "needs a projection. Set projection_size.")
        if self.attention is None:
            return
        yield from inside("attention", self.attention.check(dimensions.hidden_size))
        if self.hidden or self.norm_eps or self.projection_size:
            yield Problem("attention", "stands alone: leave hidden, norm_eps and projection out.")

    @property
    def has_loss(self) -> bool:
        """Nothing is learned from labels."""
        return False

    @property
    def is_embedding(self) -> bool:
        """Whether `embed` answers with it, and not with the mean over the tokens."""
        return any((self.norm_eps, self.projection_size, self.attention))


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
