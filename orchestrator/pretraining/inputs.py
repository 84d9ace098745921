"""What a job reads: its corpus or labelled rows, made into samples for its targets."""

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from orchestrator.data.builders import build_samples
from orchestrator.data.corpus import Corpus, open_corpus, prepare_corpus
from orchestrator.data.examples_corpus import (
    EXAMPLES,
    ExampleCorpus,
    open_examples,
    prepare_examples,
)
from orchestrator.data.images import ImageProcessor
from orchestrator.data.labelled_corpus import (
    KIND,
    LabelledCorpus,
    open_labelled,
    prepare_labelled,
    require_classes,
)
from orchestrator.data.labelled_samples import require_pairs
from orchestrator.data.sample_configs import ExamplesConfig
from orchestrator.data.samples import Batch, SampleDataset
from orchestrator.data.steps import StepSource
from orchestrator.modeling.targets.configs import ClsConfig, SpConfig
from orchestrator.modeling.targets.pair_configs import ClrConfig, SiameseConfig
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.model_inputs import inputs_of
from orchestrator.storage import read_json
from orchestrator.training.seeding import derive_seed

if TYPE_CHECKING:
    from orchestrator.data.blocks import TokenBlocks
    from orchestrator.data.example_rows import Examples
    from orchestrator.data.rows import Rows

AnyCorpus = Corpus | LabelledCorpus | ExampleCorpus
IntArray = npt.NDArray[np.int64]

TWO = 2  # classes of a sentence pair


def prepare_inputs(config: PretrainConfig, cache: Path) -> AnyCorpus:
    """Make a job's data ready, or open it where that has been done before.

    Raises:
        InputError: the source is missing, has other classes than the model, or too little for
            these samples.
    """
    chosen = config.chosen_samples
    if isinstance(chosen, ExamplesConfig):
        return prepare_examples(config.data, chosen, inputs_of(config.model), cache)
    if chosen.type != "labelled":
        found = prepare_corpus(config.data, cache)
        _require_samples(config, found)
        return found
    corpus = prepare_labelled(config.data, cache)
    for target in config.model.target:
        if isinstance(target, ClsConfig | SiameseConfig):
            require_classes(corpus, target.num_labels)
        elif isinstance(target, SpConfig):
            require_classes(corpus, TWO)
        if isinstance(target, SiameseConfig | SpConfig):
            require_pairs(corpus.train)
    return corpus


def _require_samples(config: PretrainConfig, corpus: Corpus) -> None:
    """Build what the workers will build, so that what is missing is said before they start."""
    samples = samples_of(config, corpus, corpus.train)
    StepSource(samples, 1, 1, 0, config.data.weights)
    samples_of(config, corpus, corpus.validation)


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
    return build_samples(
        config.chosen_samples,
        split,
        None if isinstance(processor, ImageProcessor) else processor,
        {target.type_name(): target.name for target in config.model.target},
        derive_seed(config.seed, "masking"),
        config.data.packing,
    )


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


def baselines(train: SampleDataset, held_out: SampleDataset, most: int) -> dict[str, float]:
    """Return what guessing by frequency reaches: the loss and accuracy of each target.

    Labels of the first ``most`` samples of each are counted (one is added to every count): loss is
    the cross-entropy of the held-out labels under the frequencies in training, accuracy the share
    of the label that is most frequent there.

    Returns:
        ``loss.<target>`` and ``accuracy.<target>``.
    """
    seen, asked = _labels(train, most), _labels(held_out, most)
    figures: dict[str, float] = {}
    for name in seen:
        size = 1 + max(int(seen[name].max(initial=0)), int(asked[name].max(initial=0)))
        counts = np.bincount(seen[name], minlength=size)
        found = np.bincount(asked[name], minlength=size)
        kinds = max(int((counts + found > 0).sum()), 1)
        chance = (counts + 1) / (counts.sum() + kinds)
        total = max(found.sum(), 1)
        figures[f"loss.{name}"] = float(-(found * np.log(chance)).sum() / total)
        figures[f"accuracy.{name}"] = float(found[counts.argmax()] / total)
    return figures


def pair_baselines(config: PretrainConfig, rows: int, workers: int) -> dict[str, float]:
    """Return what guessing reaches where each row's partner is to be found in its own batch.

    Softmax: the logarithm of the batch. Sigmoid: yes with the share of the right answers.

    Args:
        config: the job; says how rows are measured in batches.
        rows: measured rows.
        workers: ranks that share them.

    Returns:
        ``loss.<target>`` and ``accuracy.<target>`` of each contrastive target.
    """
    group = config.train.eval_batch_size * workers
    groups = (min(group, rows - start) for start in range(0, rows, group))
    batches = [len(part) for size in groups for part in np.array_split(np.arange(size), workers)]
    sizes = np.asarray([size for size in batches if size], dtype=np.float64)
    others = np.where(sizes > 1, (sizes - 1) * np.log(sizes / np.maximum(sizes - 1, 1)), 0.0)
    figures: dict[str, float] = {}
    for target in config.model.target:
        if isinstance(target, ClrConfig):
            losses = np.log(sizes) + (others if target.loss == "sigmoid" else 0.0)
            figures[f"loss.{target.name}"] = float((sizes * losses).sum() / rows)
            figures[f"accuracy.{target.name}"] = len(sizes) / rows
    return figures


def _labels(samples: SampleDataset, most: int) -> dict[str, IntArray]:
    found: dict[str, list[IntArray]] = {}
    for start in range(0, min(most, len(samples)), 64):
        indices = np.arange(start, min(start + 64, most, len(samples)), dtype=np.int64)
        for key, value in samples.collate(indices, 0).items():
            if key.startswith("labels."):
                labels = cast(Any, value).numpy().ravel()
                found.setdefault(key.removeprefix("labels."), []).append(labels[labels >= 0])
    return {name: np.concatenate(parts) for name, parts in found.items()}
