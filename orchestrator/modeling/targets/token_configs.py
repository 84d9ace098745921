"""Options of the targets with one answer per position. Imports without torch."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, Visibility, targets
from orchestrator.modeling.layers.block_options import Activation, Rate
from orchestrator.modeling.targets.configs import (
    Smoothing,
    TargetConfig,
    TransformConfig,
    transform_problems,
)

_PACKAGE = "orchestrator.modeling.targets"

MASKED_SHARE = 0.15
"""Share of positions that masked language modeling predicts (Devlin et al. 2019)."""


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

    def saved_activations(self, dimensions: Dimensions) -> int:
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
    norm_bias: bool = True
    """Give the transform's LayerNorm a bias (ModernBERT: none)."""
    transform_bias: bool = True
    """Give the transform's linear layer a bias (ModernBERT: none)."""
    bias: bool = True
    """Give the output layer a bias."""

    def saved_activations(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: only masked positions have logits."""
        transform = 4 * dimensions.hidden_size
        return round(MASKED_SHARE * (super().saved_activations(dimensions) + transform))


@targets.register("orchestrator.modeling.targets.vocabulary:LmTarget")
class LmConfig(VocabularyConfig):
    """Predict the next token (GPT-2)."""

    type: Literal["lm"] = "lm"
    bias: bool = False
    """Give the output layer a bias."""
    scale: bool = False
    """Divide what the output layer reads by the square root of the hidden size (T5 v1.0)."""
    softcap: PositiveFloat | None = None
    """Largest logit c: each becomes c * tanh(logit / c) (Gemma 2: 30); null: no limit."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """The output layer reads vectors of the model's width."""
        if self.tie and dimensions.word_size != dimensions.hidden_size:
            yield Problem(
                "tie",
                f"the word table has width {dimensions.word_size}, the model "
                f"{dimensions.hidden_size}. Set tie to false, or leave the embedding's size out.",
            )

    @property
    def needs_visibility(self) -> Visibility:
        """The next token must not have been read."""
        return "past"


@targets.register("orchestrator.modeling.targets.tokens:BilmTarget")
class BilmConfig(TargetConfig):
    """Predict the next token from one half of the width, the previous one from the other (ELMo)."""

    type: Literal["bilm"] = "bilm"
    bias: bool = True
    """Give the output layer a bias."""

    @property
    def needs_visibility(self) -> Visibility:
        """Each half must not have read what it predicts."""
        return "halves"

    def saved_activations(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps, for two directions."""
        return 2 * dimensions.hidden_size

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """The two directions share the width."""
        if dimensions.hidden_size % 2:
            width = dimensions.hidden_size
            yield Problem("type", f"two directions share hidden_size ({width}). Use an even one.")


MASKED_PATCHES = 0.4
"""Share of the patches that masked image modeling predicts (Bao et al. 2022, section 2.3)."""


@targets.register(f"{_PACKAGE}.tokens:MimTarget")
class MimConfig(TargetConfig):
    """Predict the codes that a visual tokenizer gives to masked patches (BEiT)."""

    type: Literal["mim"] = "mim"
    num_codes: PositiveInt = 8192
    """Size of the visual vocabulary."""

    def saved_activations(self, dimensions: Dimensions) -> int:
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


@targets.register("orchestrator.modeling.targets.tokens:TagsTarget")
class TagsConfig(TargetConfig):
    """Classify every token (names, parts of speech)."""

    type: Literal["tags"] = "tags"
    num_labels: int = Field(default=2, ge=2)
    """Number of classes."""
    transform: TransformConfig | None = None
    """Linear layer, activation, norm before the classifier; null: none."""
    dropout: Rate = 0.1
    """Dropout rate before the classifier."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Options of a norm need one."""
        yield from transform_problems(self.transform, dimensions)


@targets.register("orchestrator.modeling.targets.tokens:RtdTarget")
class RtdConfig(TargetConfig):
    """Classify every token as original (0) or replaced (1) (ELECTRA)."""

    type: Literal["rtd"] = "rtd"
    activation: Activation = "gelu"
    """Activation between the two linear layers."""

    def saved_activations(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: both sides of the hidden layer."""
        return 3 * dimensions.hidden_size


Words = Annotated[tuple[str, ...], Field(min_length=1)]
"""Words of one class."""


@targets.register("orchestrator.modeling.targets.prompts:PromptTarget")
class PromptConfig(TargetConfig):
    """Classify by the words at the masked position of a template (PET)."""

    type: Literal["prompt"] = "prompt"
    words: tuple[Words, ...] = Field((("no",), ("yes",)), min_length=2)
    """Words of each class, in the order of the labels; each is one token."""
    mask_token: NonNegativeInt = 4
    """Token at the position that is read; its first place in a sequence."""
    transform: bool = True
    """Put a linear layer, activation and LayerNorm before the output layer, as in ``mlm``."""
    activation: Activation = "gelu"
    """Activation of the transform."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance inside the transform's LayerNorm (BERT: 1e-12)."""
    norm_bias: bool = True
    """Give the transform's LayerNorm a bias (ModernBERT: none)."""
    transform_bias: bool = True
    """Give the transform's linear layer a bias (ModernBERT: none)."""
    bias: bool = True
    """Give the output layer a bias."""

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.words)
