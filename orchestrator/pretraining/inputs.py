"""What a job reads: its corpus or labelled rows, made into samples for its targets."""

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.corpus import Corpus, open_corpus, prepare_corpus
from orchestrator.data.corpora.examples_corpus import (
    EXAMPLES,
    ExampleCorpus,
    open_examples,
    prepare_examples,
)
from orchestrator.data.corpora.labelled_corpus import (
    KIND,
    LabelledCorpus,
    open_labelled,
    prepare_labelled,
)
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.samples.base import Batch, SampleDataset, SampleInputs, build_samples
from orchestrator.data.samples.kinds import ExamplesConfig
from orchestrator.data.steps import IGNORED, StepSource, eval_batches
from orchestrator.errors import InputError
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.labels import form_of, require_labels
from orchestrator.pretraining.model_inputs import inputs_of
from orchestrator.storage import read_json
from orchestrator.training.seeding import derive_seed

if TYPE_CHECKING:
    from orchestrator.data.corpora.blocks import TokenBlocks
    from orchestrator.data.corpora.example_rows import Examples
    from orchestrator.data.rows.rows import Rows

AnyCorpus = Corpus | LabelledCorpus | ExampleCorpus


def prepare_inputs(config: PretrainConfig, cache: Path) -> AnyCorpus:
    """Make a job's data ready, or open it where that has been done before.

    Raises:
        InputError: the source is missing, has other labels than the model's targets ask for, or
            too little for these samples.
    """
    chosen = config.chosen_samples
    if isinstance(chosen, ExamplesConfig):
        return prepare_examples(config.data, chosen, inputs_of(config.model), cache)
    if chosen.reads == "blocks":
        found = prepare_corpus(config.data, cache)
        _require_samples(config, found)
        return found
    corpus = prepare_labelled(config.data, cache, form_of(config.model))
    require_labels(config.model, corpus.label_names, corpus.train)
    return corpus


def _require_samples(config: PretrainConfig, corpus: Corpus) -> None:
    """Build what the workers will build, so that what is missing is said before they start."""
    samples = samples_of(config, corpus, corpus.train)
    StepSource(samples, 1, 1, 0, config.data.weights)
    held_out = HeldOut(samples_of(config, corpus, corpus.validation), config.train.eval_blocks)
    if not any(map(_has_labels, eval_batches(held_out, config.train.eval_batch_size))):
        raise InputError(
            f"{config.data.title}: no held-out sample has a label for the model's targets. Give "
            "longer documents, or a larger data.data.validation_fraction."
        )


def _has_labels(batch: Batch) -> bool:
    return any(bool((v != IGNORED).any()) for k, v in batch.items() if k.startswith("labels."))


def open_inputs(path: Path) -> AnyCorpus:
    """Open what ``prepare_inputs`` committed and checked; of a corpus, hashes of small files only.

    Raises:
        IntegrityError: it is not what its manifest says.
    """
    kind = read_json(path / "manifest.json").get("kind")
    if kind == EXAMPLES:
        return open_examples(path)
    return open_labelled(path) if kind == KIND else open_corpus(path, thorough=False)


def vocabulary(corpus: AnyCorpus) -> int:
    """Return the number of tokens; images have none."""
    processor = corpus.processor
    return 0 if isinstance(processor, ImageProcessor) else processor.vocab_size


def modality(corpus: AnyCorpus) -> str:
    """Return what the samples are."""
    return str(corpus.manifest.get("modality", "text"))


def samples_of(
    config: PretrainConfig, corpus: AnyCorpus, split: "TokenBlocks | Rows | Examples"
) -> SampleDataset:
    """Build a split's samples for the model's targets."""
    processor = corpus.processor
    inputs = SampleInputs(
        split,
        None if isinstance(processor, ImageProcessor) else processor,
        {target.type_name(): target.name for target in config.model.target},
        derive_seed(config.seed, "masking"),
        config.data.packing,
    )
    return build_samples(config.chosen_samples, inputs)


class HeldOut:
    """The first samples of a data set, of each source its share."""

    def __init__(self, samples: SampleDataset, limit: int | None) -> None:
        self._samples = samples
        size = len(samples)
        share = 1.0 if limit is None else min(1.0, limit / max(size, 1))
        starts = np.cumsum([0, *samples.parts[:-1]])
        parts = zip(starts, samples.parts, strict=True)
        taken = [start + np.arange(ceil(count * share - 1e-9)) for start, count in parts]
        self._indices = np.concatenate(taken).astype(np.int64)
        self.parts = (len(self._indices),)

    def __len__(self) -> int:
        return len(self._indices)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch of the given samples."""
        return self._samples.collate(self._indices[indices], epoch)
