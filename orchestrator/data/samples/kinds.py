"""The registry of sample kinds, and the options of the built-in ones. Imports no torch, no NumPy.

A sample kind turns the blocks of a corpus, labelled rows or examples into training samples. Its
config says which targets get labels and what data it reads; its class builds the samples:
``build(config, inputs)`` (see ``samples.base``). The class is named by a locator here, because it
imports torch and NumPy, and configs must load without them. A package outside adds a kind as one
class with a nested ``Config``, through an entry point ``sample.<type>``.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel
from orchestrator.config.registry import Choice, EntryConfig, Registry
from orchestrator.data.media.inputs import (
    CropConfig,
    Fraction,
    PictureFamily,
    Share,
    SpecAugmentConfig,
)
from orchestrator.data.processors.segmenters import NoSegmenterConfig, Segmenters
from orchestrator.errors import Problem

Column = Literal["text", "pair", "picture", "sound"]
"""A column of a table of examples."""


class SampleConfig(EntryConfig):
    """Options of one sample kind."""

    wants: ClassVar[tuple[str, ...]]
    """Targets; the model has exactly one of them."""
    also: ClassVar[tuple[str, ...]] = ()
    """Targets that the model may have in addition."""
    decoder: ClassVar[bool | None] = False
    """Whether the model must have a decoder; None: the target decides."""
    packs: ClassVar[bool] = False
    """Whether ``data.packing: documents`` is supported."""
    reads: ClassVar[Literal["blocks", "rows", "examples"]] = "blocks"
    """Source of the samples: blocks of a corpus, labelled rows, or examples."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """Columns that every example must have; empty for blocks and rows."""
    form: ClassVar[str | None] = None
    """Form of the labels of rows; None: the targets decide."""
    roles: ClassVar[tuple[str, ...]] = ()
    """Special tokens that the tokenizer must have, see ``Roles.require_all``."""

    def needs(self, targets: Iterable[str]) -> tuple[str, ...]:
        """Return the special tokens that samples for these targets need."""
        return (*self.roles, "mask") if "mlm" in targets else self.roles


samples: Registry[SampleConfig] = Registry("sample", SampleConfig)
"""All sample kinds."""

Samples = Annotated[SampleConfig, Choice(samples)]
"""Annotation of a field that holds one sample kind with its options."""


class MaskingConfig(StrictModel):
    """Choice and replacement of masked tokens (BERT's numbers)."""

    share: Share = 0.15
    """Share of the tokens that are predicted."""
    hidden: Fraction = 0.8
    """Share of the predicted tokens that become [MASK]."""
    random: Fraction = 0.1
    """Share of the predicted tokens that become a random token; the others stay."""
    units: Literal["tokens", "words", "spans"] = "tokens"
    """Unit of masking: tokens, whole words, or runs of words (SpanBERT)."""
    segmenter: Segmenters = NoSegmenterConfig()
    """Finds the words of scripts without blanks; none: words are what the tokenizer marks."""
    copies: PositiveInt | None = None
    """Number of masks per sample (static masking); null: a new one in every epoch."""

    def problems(self) -> Iterable[Problem]:
        """A segmenter finds words, and acts where words are units."""
        if self.units == "tokens" and self.segmenter != NoSegmenterConfig():
            yield Problem("segmenter", "finds words, and units are tokens. Set units: words.")


@samples.register("orchestrator.data.samples.block_samples:MlmSamples")
class MaskedConfig(SampleConfig):
    """Blocks with masked tokens (BERT, RoBERTa)."""

    wants = ("mlm",)
    packs = True
    type: Literal["masked"] = "masked"
    masking: MaskingConfig = MaskingConfig()
    """Choice of the masked tokens."""


@samples.register("orchestrator.data.samples.block_samples:LmSamples")
class NextConfig(SampleConfig):
    """Blocks and the next token of each position (GPT)."""

    wants = ("lm",)
    packs = True
    type: Literal["next"] = "next"


@samples.register("orchestrator.data.samples.block_samples:BilmSamples")
class NeighboursConfig(SampleConfig):
    """Blocks and the next and the previous token of each position (ELMo)."""

    wants = ("bilm",)
    type: Literal["neighbours"] = "neighbours"


@samples.register("orchestrator.data.samples.block_samples:PrefixSamples")
class PrefixConfig(SampleConfig):
    """Blocks with a bidirectional prefix whose rest is predicted (UniLM)."""

    wants = ("lm",)
    packs = True
    type: Literal["prefix"] = "prefix"


@samples.register("orchestrator.data.samples.sentence_pairs:PairSamples")
class PairsConfig(SampleConfig):
    """Two segments: the next sentence or a random one (nsp), in order or swapped (sop)."""

    wants = ("nsp", "sop")
    also = ("mlm",)
    roles = ("pair",)
    type: Literal["pairs"] = "pairs"
    changed: Fraction = 0.5
    """Share of the pairs that are random or swapped."""
    short_share: Fraction = 0.1
    """Share of the samples that are made shorter than a block."""
    masking: MaskingConfig = MaskingConfig()
    """Choice of the masked tokens for a target mlm."""


@samples.register("orchestrator.data.samples.block_samples:ReplacedSamples")
class ReplacedConfig(SampleConfig):
    """Blocks with replaced tokens (ELECTRA, without a trained generator)."""

    wants = ("rtd",)
    packs = True
    type: Literal["replaced"] = "replaced"
    share: Share = 0.15
    """Share of the tokens that are replaced."""
    replacements: Literal["unigram", "uniform"] = "unigram"
    """Draw replacements by their frequency in the corpus, or all with equal probability."""


@samples.register("orchestrator.data.samples.sequence_to_sequence:SpanCorruptionSamples")
class SpansConfig(SampleConfig):
    """Texts with removed spans, which the decoder writes (T5)."""

    wants = ("lm",)
    decoder = True
    roles = ("sentinels", "pad")
    type: Literal["spans"] = "spans"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are removed."""
    mean_span: Annotated[float, Field(ge=1)] = 3.0
    """Average number of tokens per span."""

    def sizes(self, length: int) -> tuple[int, int]:
        """Return the number of removed tokens and of spans of a sequence of ``length`` tokens."""
        if length == 1:
            return 1, 1
        noise = min(max(round(length * self.share), 1), length - 1)
        spans = min(max(round(noise / self.mean_span), 1), length - noise)
        return noise, spans

    def lengths(self, length: int) -> tuple[int, int]:
        """Return the number of tokens of source and target, [SEP] included."""
        noise, spans = self.sizes(length)
        return length - noise + spans + 1, noise + spans + 1

    def room(self, block_size: int) -> int:
        """Return the longest sequence whose source and target both fit into a block."""
        length = block_size
        while max(self.lengths(length)) > block_size:
            length -= 1
        while max(self.lengths(length + 1)) <= block_size:
            length += 1
        return length


@samples.register("orchestrator.data.samples.sequence_to_sequence:DenoisingSamples")
class DenoisingConfig(SampleConfig):
    """Texts with masked spans and shuffled sentences, which the decoder restores (BART)."""

    wants = ("lm",)
    decoder = True
    roles = ("mask",)
    type: Literal["denoising"] = "denoising"
    share: Fraction = 0.3
    """Share of the words that are masked."""
    mean_span: PositiveFloat = 3.0
    """Average number of words per span."""
    shuffle: bool = True
    """Put sentences in random order."""


@samples.register("orchestrator.data.samples.sequence_to_sequence:GapSentenceSamples")
class GapsConfig(SampleConfig):
    """Texts with removed sentences, which the decoder writes (PEGASUS)."""

    wants = ("lm",)
    decoder = True
    roles = ("sentence_mask", "pad")
    type: Literal["gaps"] = "gaps"
    share: Share = 0.3
    """Share of the sentences that are removed."""
    selection: Literal["principal", "lead", "random"] = "principal"
    """Remove the sentences most similar to the rest, the first ones, or random ones."""


@samples.register("orchestrator.data.samples.labelled_samples:LabelledSamples")
class LabelledConfig(SampleConfig):
    """Labelled rows (supervised pre-training), with masked tokens if there is a target mlm.

    A label is a class (cls, sp, siamese), a tag per word (tags), any number of names
    (multilabel), or numbers (regression). A pair of texts is one sequence, or two streams
    (siamese); rows with tags have one text. Pictures come from folders, a subfolder per class, or
    from a table of files.
    """

    wants = ("cls", "sp", "siamese", "tags", "multilabel", "regression")
    also = ("mlm",)
    reads = "rows"
    type: Literal["labelled"] = "labelled"
    masking: MaskingConfig = MaskingConfig()
    """Choice of the masked tokens for a target mlm."""
    family: PictureFamily = "vit"
    """Files of pictures: model family whose resizing and normalization is used."""
    crop: CropConfig | None = None
    """Files of pictures: random crop of each training picture; null: whole pictures."""


@samples.register("orchestrator.data.samples.prompts:ParallelSamples")
class ParallelConfig(SampleConfig):
    """Parallel text: an encoder reads the source, a decoder writes the target (translation)."""

    wants = ("lm",)
    decoder = True
    reads = "rows"
    form = "text"
    type: Literal["mt"] = "mt"
    start: Literal["padding", "end", "begin"] = "padding"
    """Token that the decoder begins with: padding (T5, Marian), the end token (BART), or the one
    that begins a text."""


@samples.register("orchestrator.data.samples.chats:ChatSamples")
class SftConfig(SampleConfig):
    """Conversations, or prompts and answers, whose answers alone are learned (instructions)."""

    wants = ("lm",)
    reads = "rows"
    form = "chat"
    type: Literal["sft"] = "sft"
    chat_template: str | None = None
    """File with a chat template in Jinja; null: that of the tokenizer; if it has none, messages
    follow one another."""


class ExamplesConfig(SampleConfig):
    """Base of the kinds that read examples: pictures, sounds and texts that belong together."""

    reads = "examples"


@samples.register("orchestrator.data.samples.masked_patches:MaskedPatchSamples")
class MaskedPatchesConfig(ExamplesConfig):
    """Pictures with masked patches, whose codes are predicted (BEiT)."""

    wants = ("mim",)
    columns = ("picture",)
    type: Literal["masked_patches"] = "masked_patches"
    share: Share = 0.4
    """Share of the patches that are masked."""
    smallest_block: PositiveInt | None = None
    """Minimum number of patches per masked block; null: in BEiT's proportion, 16 of 196."""
    family: PictureFamily = "beit"
    """Model family whose resizing and normalization is used."""
    crop: CropConfig | None = CropConfig()
    """Random crop of each training picture; null: whole pictures."""


@samples.register("orchestrator.data.samples.image_text:ImageTextPairs")
class ImageTextConfig(ExamplesConfig):
    """Pictures and their captions: pairs (CLIP), or whether they belong together (ViLT)."""

    wants = ("clr", "itm")
    also = ("mlm",)
    columns = ("picture", "text")
    type: Literal["image_text"] = "image_text"
    family: PictureFamily = "clip"
    """Model family whose resizing and normalization is used."""
    crop: CropConfig | None = None
    """Random crop of each training picture; null: the same as in evaluation."""
    mismatched: Fraction = 0.5
    """itm: share of the pictures that get the caption of another picture."""
    masking: MaskingConfig = MaskingConfig()
    """Choice of the masked tokens for a target mlm, in pairs of a picture with its own caption."""


@samples.register("orchestrator.data.samples.image_text:TextPairs")
class TextPairsConfig(ExamplesConfig):
    """Two texts that belong together, contrasted with those of the batch (sentence vectors)."""

    wants = ("clr",)
    columns = ("text", "pair")
    type: Literal["text_pairs"] = "text_pairs"


@samples.register("orchestrator.data.samples.media_samples:TranscriptSamples")
class TranscriptsConfig(ExamplesConfig):
    """Recordings and their transcripts: written by a decoder (Speech2Text) or aligned (ctc)."""

    wants = ("lm", "ctc")
    decoder = None
    columns = ("sound", "text")
    type: Literal["transcripts"] = "transcripts"
    rate: PositiveInt = 16000
    """Samples per second to which recordings are resampled."""
    max_seconds: PositiveFloat = 30.0
    """Longer recordings are left out, and counted."""
    augment: SpecAugmentConfig | None = SpecAugmentConfig()
    """SpecAugment in training; null: none. Raw waveforms are never changed."""
