"""From a config of samples to samples.

Every builder gets the split's data, the processor, the name of the target of each type, the seed
and how the documents of a block are packed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import BilmSamples, LmSamples, MlmSamples, SampleDataset
from orchestrator.data.samples.denoising import DenoisingSamples, Noise
from orchestrator.data.samples.gap_sentences import GapSentenceSamples
from orchestrator.data.samples.image_text import ImageTextMatches, ImageTextPairs, TextPairs
from orchestrator.data.samples.labelled_samples import LabelledPairs, LabelledSamples, TagSamples
from orchestrator.data.samples.masked_patches import MaskedPatchSamples
from orchestrator.data.samples.masking import Masking
from orchestrator.data.samples.packing import Packing
from orchestrator.data.samples.pairs import Pairing, PairSamples
from orchestrator.data.samples.prefixes import PrefixSamples
from orchestrator.data.samples.replacing import ReplacedSamples
from orchestrator.data.samples.sample_configs import (
    AnySamples,
    DenoisingConfig,
    GapsConfig,
    ImageTextConfig,
    LabelledConfig,
    MaskedConfig,
    MaskedPatchesConfig,
    MaskingConfig,
    NeighboursConfig,
    NextConfig,
    PairsConfig,
    PrefixConfig,
    ReplacedConfig,
    SpansConfig,
    TextPairsConfig,
    TranscriptsConfig,
)
from orchestrator.data.samples.span_corruption import Corruption, SpanCorruptionSamples
from orchestrator.data.samples.transcripts import TranscriptSamples

Targets = Mapping[str, str]
"""Type of a target → its name."""


def build_samples(
    config: AnySamples,
    data: TokenBlocks | Rows | Examples,
    processor: TextProcessor | ExampleProcessor | None,
    targets: Targets,
    seed: int,
    packing: Packing = "stream",
) -> SampleDataset:
    """Build the samples of one split.

    Args:
        config: how they are made.
        data: blocks of a corpus, labelled rows, or examples.
        processor: tokenizer, or the processors of examples; None for labelled images.
        targets: name of the model's target of each type.
        seed: seed of all random choices.
        packing: whether the documents of a block are kept apart.

    Raises:
        InputError: the data or the tokenizer lack something.
    """
    return BUILDERS[type(config)](config, data, processor, targets, seed, packing)


def masking(config: MaskingConfig) -> Masking:
    """Return the rule that a config describes."""
    return Masking(
        config.share,
        config.hidden,
        config.random,
        whole_words=config.units == "words",
        spans=config.units == "spans",
        copies=config.copies,
    )


def _masked(c: MaskedConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing) -> Any:
    return MlmSamples(data, processor, t["mlm"], seed, masking(c.masking), p)


def _next(c: NextConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing) -> Any:
    return LmSamples(data, processor, t["lm"], seed, p)


def _neighbours(
    c: NeighboursConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    return BilmSamples(data, processor, t["bilm"], seed)


def _prefix(c: PrefixConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing) -> Any:
    return PrefixSamples(data, processor, t["lm"], seed, p)


def _pairs(c: PairsConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing) -> Any:
    pairing = Pairing("next" if "nsp" in t else "order", c.changed, c.short_share)
    judge = t.get("nsp") or t.get("sop")
    return PairSamples(data, processor, judge, t.get("mlm"), seed, pairing, masking(c.masking))


def _replaced(
    c: ReplacedConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    return ReplacedSamples(data, processor, t["rtd"], seed, c.share, c.replacements, p)


def _spans(c: SpansConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing) -> Any:
    return SpanCorruptionSamples(data, processor, t["lm"], seed, Corruption(c.share, c.mean_span))


def _denoising(
    c: DenoisingConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    return DenoisingSamples(data, processor, t["lm"], seed, Noise(c.share, c.mean_span, c.shuffle))


def _gaps(c: GapsConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing) -> Any:
    return GapSentenceSamples(data, processor, t["lm"], seed, c.share, c.selection)


def _labelled(
    c: LabelledConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    if "siamese" in t:
        return LabelledPairs(data, processor, t["siamese"])
    (name,) = (t[target] for target in c.wants if target in t)
    kind = TagSamples if "tags" in t else LabelledSamples
    return kind(data, processor, name, t.get("mlm"), seed, masking(c.masking))


def _masked_patches(
    c: MaskedPatchesConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    return MaskedPatchSamples(data, processor, t["mim"], seed, c)


def _image_text(
    c: ImageTextConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    if "clr" in t:
        return ImageTextPairs(data, processor, t["clr"], seed, c)
    rule = masking(c.masking)
    return ImageTextMatches(data, processor, t["itm"], t.get("mlm"), seed, c, rule)


def _text_pairs(
    c: TextPairsConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    return TextPairs(data, processor, t["clr"])


def _transcripts(
    c: TranscriptsConfig, data: Any, processor: Any, t: Targets, seed: int, p: Packing
) -> Any:
    name = t.get("lm") or t["ctc"]
    return TranscriptSamples(data, processor, name, seed, c.augment, written="lm" in t)


BUILDERS: dict[type, Callable[..., SampleDataset]] = {
    MaskedConfig: _masked,
    NextConfig: _next,
    NeighboursConfig: _neighbours,
    PrefixConfig: _prefix,
    PairsConfig: _pairs,
    ReplacedConfig: _replaced,
    SpansConfig: _spans,
    DenoisingConfig: _denoising,
    GapsConfig: _gaps,
    LabelledConfig: _labelled,
    MaskedPatchesConfig: _masked_patches,
    ImageTextConfig: _image_text,
    TextPairsConfig: _text_pairs,
    TranscriptsConfig: _transcripts,
}
"""Config → builder."""
