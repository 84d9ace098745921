"""How samples are made of data, as config. Imports neither torch nor NumPy."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel

Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class MaskingConfig(StrictModel):
    """Which tokens are hidden, and by what (BERT's numbers)."""

    share: Share = 0.15
    """Share of the tokens that are asked for."""
    hidden: Fraction = 0.8
    """Share of these that become [MASK]."""
    random: Fraction = 0.1
    """Share of these that become a random token; the others stay."""
    units: Literal["tokens", "words", "spans"] = "tokens"
    """What is chosen: tokens, whole words, or runs of words (SpanBERT)."""
    copies: PositiveInt | None = None
    """Number of masks of a sample (static masking); null: a new one in every epoch."""


class SamplesConfig(StrictModel):
    """How samples are made.

    ``wants`` are the targets of which a sample has labels of one at least, ``also`` those that it
    may have labels of besides.
    """

    wants: ClassVar[tuple[str, ...]]
    also: ClassVar[tuple[str, ...]] = ()
    decoder: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    """Whether the documents of a block can be kept apart."""


class MaskedConfig(SamplesConfig):
    """Blocks with hidden tokens (BERT, RoBERTa)."""

    wants = ("mlm",)
    packs = True
    type: Literal["masked"] = "masked"
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are hidden."""


class NextConfig(SamplesConfig):
    """Blocks and the next token of each position (GPT)."""

    wants = ("lm",)
    packs = True
    type: Literal["next"] = "next"


class NeighboursConfig(SamplesConfig):
    """Blocks and the next and the previous token of each position (ELMo)."""

    wants = ("bilm",)
    type: Literal["neighbours"] = "neighbours"


class PrefixConfig(SamplesConfig):
    """Blocks whose beginning is read from both sides and whose rest is predicted (UniLM)."""

    wants = ("lm",)
    packs = True
    type: Literal["prefix"] = "prefix"


class PairsConfig(SamplesConfig):
    """Two segments: the next sentence or a random one (nsp), in order or swapped (sop)."""

    wants = ("nsp", "sop")
    also = ("mlm",)
    type: Literal["pairs"] = "pairs"
    changed: Fraction = 0.5
    """Share of the pairs that are random or swapped."""
    short_share: Fraction = 0.1
    """Share of the samples that are made shorter than a block."""
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are hidden for a target mlm."""


class ReplacedConfig(SamplesConfig):
    """Blocks with exchanged tokens (ELECTRA, without a trained generator)."""

    wants = ("rtd",)
    packs = True
    type: Literal["replaced"] = "replaced"
    share: Share = 0.15
    """Share of the tokens that are exchanged."""
    replacements: Literal["unigram", "uniform"] = "unigram"
    """Draw other tokens as often as they occur, or all alike."""


class SpansConfig(SamplesConfig):
    """Texts without some spans, which the decoder writes (T5)."""

    wants = ("lm",)
    decoder = True
    type: Literal["spans"] = "spans"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are removed."""
    mean_span: Annotated[float, Field(ge=1)] = 3.0
    """Average number of tokens of a span."""


class DenoisingConfig(SamplesConfig):
    """Texts with masked spans and shuffled sentences, which the decoder repairs (BART)."""

    wants = ("lm",)
    decoder = True
    type: Literal["denoising"] = "denoising"
    share: Fraction = 0.3
    """Share of the words that are masked."""
    mean_span: PositiveFloat = 3.0
    """Average number of words of a span."""
    shuffle: bool = True
    """Put sentences in random order."""


class GapsConfig(SamplesConfig):
    """Texts without some sentences, which the decoder writes (PEGASUS)."""

    wants = ("lm",)
    decoder = True
    type: Literal["gaps"] = "gaps"
    share: Share = 0.3
    """Share of the sentences that are taken out."""
    selection: Literal["principal", "lead", "random"] = "principal"
    """Take out those most like the rest, the first, or random ones."""


class LabelledConfig(SamplesConfig):
    """Labelled rows (supervised pre-training), with hidden tokens where there is a target mlm."""

    wants = ("cls",)
    also = ("mlm",)
    type: Literal["labelled"] = "labelled"
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are hidden for a target mlm."""


AnySamples = Annotated[
    MaskedConfig
    | NextConfig
    | NeighboursConfig
    | PrefixConfig
    | PairsConfig
    | ReplacedConfig
    | SpansConfig
    | DenoisingConfig
    | GapsConfig
    | LabelledConfig,
    Field(discriminator="type"),
]
"""One way of making samples, by ``type``."""

KINDS: tuple[type[SamplesConfig], ...] = (
    MaskedConfig,
    NextConfig,
    NeighboursConfig,
    PrefixConfig,
    PairsConfig,
    ReplacedConfig,
    SpansConfig,
    DenoisingConfig,
    GapsConfig,
    LabelledConfig,
)
"""All of them."""
