"""Data: where rows and documents come from, and how they become batches.

``spec`` says what to read, ``sources`` reads it, ``tasks`` and ``documents`` are the two doors to
it, ``processors`` turns text into ids, ``corpus`` packs a corpus on disk, ``samples`` builds
batches, ``steps`` decides which samples make global step t. Names are loaded when they are used, so
that a config needs neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.data.catalogue import PYDOC_TASKS
from orchestrator.data.spec import CorpusConfig, DatasetSpec, TokenizerConfig

if TYPE_CHECKING:
    from orchestrator.data.audio import AudioProcessor, read_sound
    from orchestrator.data.blocks import TokenBlocks
    from orchestrator.data.borders import SplitWriter
    from orchestrator.data.corpus import Corpus, open_corpus, prepare_corpus
    from orchestrator.data.denoising import DenoisingSamples, Noise
    from orchestrator.data.documents import iter_documents
    from orchestrator.data.gap_sentences import GapSentenceSamples
    from orchestrator.data.image_augmentation import CropAndFlip
    from orchestrator.data.images import ImageProcessor
    from orchestrator.data.masking import Masking
    from orchestrator.data.pairs import Pairing, PairSamples
    from orchestrator.data.passages import Passages
    from orchestrator.data.prefixes import PrefixSamples
    from orchestrator.data.processors import TextProcessor
    from orchestrator.data.replacing import ReplacedSamples
    from orchestrator.data.rows import Rows, TaskData
    from orchestrator.data.samples import (
        Batch,
        BilmSamples,
        ClsSamples,
        LmSamples,
        MlmSamples,
        SampleDataset,
    )
    from orchestrator.data.span_corruption import Corruption, SpanCorruptionSamples
    from orchestrator.data.spec_augment import SpecAugment
    from orchestrator.data.steps import StepSource, eval_batches
    from orchestrator.data.tasks import load_task

_HOMES = {
    "audio": ("AudioProcessor", "read_sound"),
    "spec_augment": ("SpecAugment",),
    "span_corruption": (
        "Corruption",
        "SpanCorruptionSamples",
    ),
    "replacing": ("ReplacedSamples",),
    "prefixes": ("PrefixSamples",),
    "passages": ("Passages",),
    "pairs": (
        "Pairing",
        "PairSamples",
    ),
    "gap_sentences": ("GapSentenceSamples",),
    "denoising": (
        "DenoisingSamples",
        "Noise",
    ),
    "borders": ("SplitWriter",),
    "blocks": ("TokenBlocks",),
    "corpus": ("Corpus", "open_corpus", "prepare_corpus"),
    "documents": ("iter_documents",),
    "image_augmentation": ("CropAndFlip",),
    "images": ("ImageProcessor",),
    "masking": ("Masking",),
    "processors": ("TextProcessor",),
    "rows": ("Rows", "TaskData"),
    "samples": (
        "Batch",
        "BilmSamples",
        "ClsSamples",
        "LmSamples",
        "MlmSamples",
        "SampleDataset",
    ),
    "steps": ("StepSource", "eval_batches"),
    "tasks": ("load_task",),
}

__all__ = [
    "PYDOC_TASKS",
    "AudioProcessor",
    "Batch",
    "BilmSamples",
    "ClsSamples",
    "Corpus",
    "CorpusConfig",
    "Corruption",
    "CropAndFlip",
    "DatasetSpec",
    "DenoisingSamples",
    "GapSentenceSamples",
    "ImageProcessor",
    "LmSamples",
    "Masking",
    "MlmSamples",
    "Noise",
    "PairSamples",
    "Pairing",
    "Passages",
    "PrefixSamples",
    "ReplacedSamples",
    "Rows",
    "SampleDataset",
    "SpanCorruptionSamples",
    "SpecAugment",
    "SplitWriter",
    "StepSource",
    "TaskData",
    "TextProcessor",
    "TokenBlocks",
    "TokenizerConfig",
    "eval_batches",
    "iter_documents",
    "load_task",
    "open_corpus",
    "prepare_corpus",
    "read_sound",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
