"""Options of the targets. Imports without torch.

Options of the targets for images, and for images with text. Imports without torch.

Options of the targets for speech. Imports without torch.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from orchestrator.errors import Problem
from orchestrator.modeling.component import ComponentConfig, Dimensions, Sight, targets
from orchestrator.modeling.encoders.block_options import Activation, Rate

Pooling = Literal["mean", "first", "last", "max", "second", "rest"]
"""How the vectors of the real positions become one: their mean, the first, the last, the maximum
per channel, the second (DeiT's distillation token), the mean of all but the first (BEiT)."""

Smoothing = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Share of each answer that is spread evenly over all classes in training (Szegedy et al. 2016,
section 7); evaluations measure the plain cross entropy."""

MASKED_SHARE = 0.15
"""Share of positions that masked language modelling predicts (Devlin et al. 2019)."""

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class TargetConfig(ComponentConfig):
    """Options of one head with its loss; labels are read from ``batch["labels.<name>"]``."""

    two_streams: ClassVar[bool] = False
    """Whether it reads ``Streams``."""
    name: str = Field(default="", pattern=_NAME)
    """Name of the head in labels, metrics and parameters; defaults to the type."""
    weight: PositiveFloat = 1.0
    """Weight of this target's mean loss in the sum that is minimised."""

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            return {**data, "name": cls.type_name()}
        return data

    @property
    def needs_sight(self) -> Sight | None:
        """What the encoder's outputs may know at most, so that they do not contain the answer."""
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

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps, for memory estimates."""
        del dimensions
        return 0


class VocabularyConfig(TargetConfig):
    """Options of the targets that predict tokens."""

    tie: bool = True
    """Use the word table as output layer (of the target side if there is a decoder)."""
    label_smoothing: Smoothing = 0.0
    """Share of each answer that is spread evenly over all tokens, in training only (Vaswani et al.
    2017: 0.1)."""

    @property
    def ties_words(self) -> bool:
        """Whether the output layer is the word table."""
        return self.tie

    @property
    def reads_words(self) -> bool:
        """Whether answers are tokens, so that there must be a vocabulary."""
        return True

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: the input and its gradient."""
        return 2 * dimensions.hidden_size


@targets.register("orchestrator.modeling.targets.vocabulary:MlmTarget")
class MlmConfig(VocabularyConfig):
    """Predict the original tokens at masked positions (BERT)."""

    type: Literal["mlm"] = "mlm"
    transform: bool = True
    """Put a linear layer, activation and LayerNorm before the output layer."""
    activation: Activation = "gelu"
    """Activation of the transform."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside the transform's LayerNorm (BERT: 1e-12)."""
    bias: bool = True
    """Give the output layer a bias."""

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: only masked positions have logits."""
        transform = 4 * dimensions.hidden_size
        return round(MASKED_SHARE * (super().kept_values(dimensions) + transform))


@targets.register("orchestrator.modeling.targets.vocabulary:LmTarget")
class LmConfig(VocabularyConfig):
    """Predict the next token (GPT-2)."""

    type: Literal["lm"] = "lm"
    bias: bool = False
    """Give the output layer a bias."""
    scale: bool = False
    """Divide what the output layer reads by the square root of the hidden size (T5 v1.0)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """The output layer reads vectors of the model's width."""
        if self.tie and dimensions.word_size != dimensions.hidden_size:
            yield Problem(
                "tie",
                f"the word table has width {dimensions.word_size}, the model "
                f"{dimensions.hidden_size}. Set tie to false, or leave the embedding's size out.",
            )

    @property
    def needs_sight(self) -> Sight:
        """The next token must not have been read."""
        return "past"


@targets.register("orchestrator.modeling.targets.vocabulary:BilmTarget")
class BilmConfig(TargetConfig):
    """Predict the next token from one half of the width, the previous one from the other (ELMo)."""

    type: Literal["bilm"] = "bilm"
    bias: bool = True
    """Give the output layer a bias."""

    @property
    def needs_sight(self) -> Sight:
        """Each half must not have read what it predicts."""
        return "halves"

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps, for two directions."""
        return 2 * dimensions.hidden_size

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """The two directions share the width."""
        if dimensions.hidden_size % 2:
            width = dimensions.hidden_size
            yield Problem("type", f"two directions share hidden_size ({width}). Use an even one.")


@targets.register("orchestrator.modeling.targets.sequence:ClsTarget")
class ClsConfig(TargetConfig):
    """Classify the whole sequence."""

    type: Literal["cls"] = "cls"
    num_labels: int = Field(default=2, ge=2)
    """Number of classes."""
    pooling: Pooling = "mean"
    """How the vectors of a sequence become one."""
    hidden: bool = False
    """Put a linear layer and tanh before the classifier."""
    hidden_activation: Literal["tanh", "relu"] = "tanh"
    """What follows the hidden layer in place of tanh (DistilBERT: relu)."""
    norm_eps: PositiveFloat | None = None
    """Put a LayerNorm with this eps after pooling (BEiT: 1e-12); null: none."""
    dropout: Rate = 0.1
    """Dropout rate before the classifier."""
    label_smoothing: Smoothing = 0.0
    """Share of each answer that is spread evenly over all classes, in training only."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """An activation needs a layer before it."""
        del dimensions
        yield from hidden_problems(self.hidden, self.hidden_activation)


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
    """Tell whether the second sentence follows the first (0) or is a random one (1) (BERT)."""

    type: Literal["nsp"] = "nsp"


@targets.register("orchestrator.modeling.targets.sequence:SopTarget")
class SopConfig(PairConfig):
    """Tell whether two sentences are in order (0) or swapped (1) (ALBERT)."""

    type: Literal["sop"] = "sop"


@targets.register("orchestrator.modeling.targets.answers:BalanceTarget")
class BalanceConfig(TargetConfig):
    """Spread tokens evenly over the experts of the encoder (Switch, Mixtral)."""

    type: Literal["balance"] = "balance"
    weight: PositiveFloat = 0.01
    """Weight of this target's mean loss in the sum that is minimised."""
    top_k: PositiveInt = 2
    """Experts that a token passes through; as in the encoder."""

    @property
    def balances(self) -> int:
        """Experts that a token passes through."""
        return self.top_k


MASKED_PATCHES = 0.4
"""Share of the patches that masked image modelling predicts (Bao et al. 2022, section 2.3)."""

_PACKAGE = "orchestrator.modeling.targets"


@targets.register(f"{_PACKAGE}.vision:ItmTarget")
class ItmConfig(TargetConfig):
    """Tell whether a text and an image belong together, by the first token (ViLT)."""

    type: Literal["itm"] = "itm"
    rank: bool = False
    """One score with a sigmoid in place of two classes, for retrieval."""
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""


@targets.register(f"{_PACKAGE}.vision:MimTarget")
class MimConfig(TargetConfig):
    """Predict the codes that a visual tokenizer gives to masked patches (BEiT)."""

    type: Literal["mim"] = "mim"
    num_codes: PositiveInt = 8192
    """Size of the visual vocabulary."""

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: only masked patches have logits."""
        return round(MASKED_PATCHES * 2 * dimensions.hidden_size)


@targets.register("orchestrator.modeling.targets.tokens:CtcTarget")
class CtcConfig(TargetConfig):
    """Transcribe frames without knowing which token belongs to which (wav2vec 2.0)."""

    type: Literal["ctc"] = "ctc"
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""
    zero_infinity: bool = False
    """Leave out sequences that are too short for their labels, rather than fail on them."""

    @property
    def reads_words(self) -> bool:
        """Whether there must be a vocabulary."""
        return True
