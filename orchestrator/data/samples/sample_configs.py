"""How samples are made of data, as config. Imports neither torch nor NumPy."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.errors import Problem

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


class CropConfig(StrictModel):
    """A random part of each picture in training, perhaps mirrored."""

    area: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the picture's area (BEiT, ViT: 0.08; CLIP: 0.9)."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest width / height."""
    flip: Fraction = 0.5
    """Probability of mirroring left and right; 0 where sides have a meaning."""

    def problems(self) -> Iterable[Problem]:
        """Smallest first."""
        for name in ("area", "ratio"):
            least, most = getattr(self, name)
            if least > most:
                yield Problem(name, f"{least} is more than {most}. Give the smaller one first.")


class SpecAugmentConfig(StrictModel):
    """What is hidden in spectrograms in training (SpecAugment; policy LD of its table 1)."""

    frequency_masks: NonNegativeInt = 2
    """Bands that are hidden."""
    frequency_width: NonNegativeInt = 27
    """Most mel bins of a band."""
    time_masks: NonNegativeInt = 2
    """Stretches that are hidden."""
    time_width: NonNegativeInt = 100
    """Most frames of a stretch."""
    time_share: Share = 1.0
    """Most of a recording that one stretch covers."""


Column = Literal["text", "pair", "picture", "sound"]
"""What a row of examples has."""
PictureFamily = Literal["vit", "deit", "beit", "clip", "siglip", "vilt"]


class SamplesConfig(StrictModel):
    """How samples are made.

    ``wants`` are the targets of which a sample has labels of one at least, ``also`` those that it
    may have labels of besides.
    """

    wants: ClassVar[tuple[str, ...]]
    also: ClassVar[tuple[str, ...]] = ()
    decoder: ClassVar[bool | None] = False
    """Whether the model must have a decoder; None: the target decides."""
    packs: ClassVar[bool] = False
    """Whether the documents of a block can be kept apart."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """What each row must have, where samples are made of examples; (): of a corpus or of rows."""


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
    """Labelled rows (supervised pre-training), with hidden tokens where there is a target mlm.

    A label is a class (cls, sp, siamese), a tag for each word (tags), any number of names
    (multilabel), or numbers (regression). A pair of texts is one sequence, or two streams
    (siamese); tags are of one text.
    """

    wants = ("cls", "sp", "siamese", "tags", "multilabel", "regression")
    also = ("mlm",)
    type: Literal["labelled"] = "labelled"
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are hidden for a target mlm."""


class ExamplesConfig(SamplesConfig):
    """Samples made of rows of pictures, sounds and texts that belong together."""


class MaskedPatchesConfig(ExamplesConfig):
    """Pictures with hidden patches, whose codes are asked for (BEiT)."""

    wants = ("mim",)
    columns = ("picture",)
    type: Literal["masked_patches"] = "masked_patches"
    share: Share = 0.4
    """Share of the patches that are hidden."""
    smallest_block: PositiveInt | None = None
    """Fewest patches of a hidden block; null: in BEiT's proportion, 16 of 196."""
    family: PictureFamily = "beit"
    """Whose way of resizing and normalising pictures is used."""
    crop: CropConfig | None = CropConfig()
    """Cut a random part out of each picture in training; null: whole pictures."""


class ImageTextConfig(ExamplesConfig):
    """Pictures and their captions: pairs (CLIP), or whether they belong together (ViLT)."""

    wants = ("clr", "itm")
    also = ("mlm",)
    columns = ("picture", "text")
    type: Literal["image_text"] = "image_text"
    family: PictureFamily = "clip"
    """Whose way of resizing and normalising pictures is used."""
    crop: CropConfig | None = None
    """Cut a random part out of each picture in training; null: as in evaluation."""
    mismatched: Fraction = 0.5
    """itm: share of the pictures that get the caption of another one."""
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are hidden for a target mlm, where picture and caption belong together."""


class TextPairsConfig(ExamplesConfig):
    """Two texts that belong together, found among the others of the batch (sentence vectors)."""

    wants = ("clr",)
    columns = ("text", "pair")
    type: Literal["text_pairs"] = "text_pairs"


class TranscriptsConfig(ExamplesConfig):
    """Recordings and what is said: written by a decoder (Speech2Text) or aligned (ctc)."""

    wants = ("lm", "ctc")
    decoder = None
    columns = ("sound", "text")
    type: Literal["transcripts"] = "transcripts"
    rate: PositiveInt = 16000
    """Samples per second that recordings are brought to."""
    max_seconds: PositiveFloat = 30.0
    """Longer recordings are left out, and counted."""
    augment: SpecAugmentConfig | None = SpecAugmentConfig()
    """What is hidden in training; null: nothing. Sound that is read as it is stays as it is."""


AnyExamples = MaskedPatchesConfig | ImageTextConfig | TextPairsConfig | TranscriptsConfig
"""One way of making samples of examples."""

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
    | LabelledConfig
    | MaskedPatchesConfig
    | ImageTextConfig
    | TextPairsConfig
    | TranscriptsConfig,
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
    MaskedPatchesConfig,
    ImageTextConfig,
    TextPairsConfig,
    TranscriptsConfig,
)
"""All of them."""
