"""The inputs of a job: its data made ready, the samples made of them, the model that fits them.

The driver prepares them once and sends the workers the place; a worker opens them once. Everything
else asks this one value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.blocks import TokenBlocks
from orchestrator.data.corpora.corpus import Corpus, open_corpus, prepare_corpus
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.corpora.examples_corpus import (
    ExampleCorpus,
    open_examples,
    prepare_examples,
)
from orchestrator.data.corpora.labelled_corpus import (
    LabelledCorpus,
    open_labelled,
    prepare_labelled,
)
from orchestrator.data.corpora.manifests import EXAMPLES, ROWS
from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.segmenters import NoSegmenterConfig
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.unknown import MAX_UNKNOWN
from orchestrator.data.randomness import derive_seed
from orchestrator.data.rows.label_forms import FORMS
from orchestrator.data.rows.labels import CLASSES, LabelForm
from orchestrator.data.rows.rows import Rows, require_pairs
from orchestrator.data.samples.base import Batch, SampleDataset, SampleInputs, build_samples
from orchestrator.data.samples.kinds import ExamplesConfig, LabelledConfig, MaskingConfig
from orchestrator.data.steps import IGNORED, StepSource, eval_batches
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.answer_configs import MultilabelConfig, RegressionConfig
from orchestrator.modeling.targets.configs import ClsConfig, SpConfig
from orchestrator.modeling.targets.stream_configs import SiameseConfig
from orchestrator.modeling.targets.token_configs import TagsConfig
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.guard import prepare_guard
from orchestrator.pretraining.model_streams import inputs_of
from orchestrator.pretraining.objectives import labelled_targets
from orchestrator.pretraining.state import PretrainJob
from orchestrator.storage import read_json
from orchestrator.storage.remote.mirror import local_copy

AnyCorpus = Corpus | LabelledCorpus | ExampleCorpus


@dataclass(frozen=True, eq=False)
class PretrainInputs:
    """Inputs of a job.

    Attributes:
        config: The job.
        corpus: Its data, made ready.
        model: Its model, with the vocabulary filled in.
        guard: The text of its guard, made ready; None: it has none.
    """

    config: PretrainConfig
    corpus: AnyCorpus
    model: ModelConfig
    guard: Corpus | None = None

    @property
    def noteworthy(self) -> bool:
        """Whether something may have to be said about the data, see ``notes``."""
        unknown = (self.corpus.unknown_share or 0.0) > MAX_UNKNOWN
        return unknown or marks_words(masking_of(self.config))

    @property
    def task(self) -> dict[str, JsonValue]:
        """Inputs and outputs for the manifest of the package."""
        names = self.corpus.label_names if isinstance(self.corpus, LabelledCorpus) else ()
        labels: dict[str, JsonValue] = {}
        if names:  # numbers have none
            labels[name_of_labelled(self.model)] = list(names)
        return {
            "kind": self.model.target[0].type_name(),
            "modality": self.corpus.modality,
            "max_length": self.config.data.block_size if _num_tokens(self.corpus) else None,
            "labels": labels,
        }

    def job(self, run_dir: Path, start: Path | None = None) -> PretrainJob:
        """Return what the workers get.

        Args:
            run_dir: Folder of the run.
            start: Folder of the package whose weights training begins with.
        """
        return PretrainJob(
            config=self.config,
            model=self.model,
            corpus=str(self.corpus.path.resolve()),
            run_dir=str(run_dir.resolve()),
            start=None if start is None else str(start.resolve()),
            guard=None if self.guard is None else str(self.guard.path.resolve()),
        )

    @cached_property
    def train(self) -> SampleDataset:
        """Samples to learn from."""
        return self._samples(self.corpus.train, training=True)

    @cached_property
    def held_out(self) -> "HeldOut":
        """Samples to measure on."""
        held_out = self._samples(self.corpus.validation, training=False)
        return HeldOut(held_out, self.config.train.eval_blocks)

    @cached_property
    def guarded(self) -> "HeldOut | None":
        """Samples whose loss may not rise."""
        if self.guard is None:
            return None
        return HeldOut(
            self._samples(self.guard.train, training=False), self.config.train.eval_blocks
        )

    def _samples(self, split: TokenBlocks | Rows | Examples, *, training: bool) -> SampleDataset:
        config, processor = self.config, self.corpus.processor
        inputs = SampleInputs(
            split,
            ExampleProcessor(picture=processor)
            if isinstance(processor, ImageProcessor)
            else processor,
            {target.type_name(): target.name for target in config.model.target},
            derive_seed(config.seed, "masking"),
            config.data.packing,
            training,
        )
        return build_samples(config.chosen_samples, inputs)

    def steps(self) -> StepSource:
        """Return the batches of each step.

        Raises:
            InputError: There are too few samples.
        """
        train = self.config.train
        return StepSource(
            self.train,
            train.global_batch_size,
            train.micro_batch_size,
            derive_seed(self.config.seed, "order"),
            self.config.data.weights,
        )


def prepare_inputs(config: PretrainConfig, cache: Path) -> PretrainInputs:
    """Make a job's data ready, or open it where that has been done before.

    Args:
        config: The job.
        cache: Folder below which prepared data is kept.

    Raises:
        ConfigError: The config fixes a smaller vocabulary than the tokenizer's.
        InputError: The source is missing, has other labels than the model's targets ask for, or
            too little for these samples, or the named tokenizer lacks a special token.
    """
    chosen = config.chosen_samples
    named_tokenizer(config)
    corpus: AnyCorpus | None = None
    if isinstance(chosen, ExamplesConfig):
        corpus = prepare_examples(config.data, chosen, inputs_of(config.model), cache)
    elif chosen.reads != "blocks":
        rows = prepare_labelled(config.data, cache, form_of(config), _pictures(config))
        require_labels(config.model, rows.label_names, rows.train)
        corpus = rows
    ready = corpus or prepare_corpus(config.data, cache)
    model = config.model_for(_num_tokens(ready), _padding(ready))
    guard = None if config.guard is None else prepare_guard(config, ready.path, cache)
    found = PretrainInputs(config, ready, model, guard)
    if corpus is None:
        _require_samples(found)
    return found


def masking_of(config: PretrainConfig) -> MaskingConfig | None:
    """Return how a job masks tokens; None: it masks none."""
    rule = getattr(config.chosen_samples, "masking", None)
    masks = "mlm" in labelled_targets(config.model)
    return rule if masks and isinstance(rule, MaskingConfig) else None


def marks_words(rule: MaskingConfig | None) -> bool:
    """Return whether words that the tokenizer marks are units of masking."""
    words = rule is not None and rule.units != "tokens"
    return words and rule is not None and isinstance(rule.segmenter, NoSegmenterConfig)


def _pictures(config: PretrainConfig) -> ImageProcessor | None:
    """Return the processor of files of pictures; None: the model reads none."""
    chosen, picture = config.chosen_samples, inputs_of(config.model).picture
    if picture is None or not isinstance(chosen, LabelledConfig):
        return None
    return ImageProcessor.of_family(chosen.family, picture.side, picture.channels)


def named_tokenizer(config: PretrainConfig) -> TextProcessor | None:
    """Return the tokenizer that a job names; None: one is trained, or there are no words.

    Raises:
        InputError: It lacks a special token that the samples need; says what to do.
    """
    path = config.data.prepared or config.data.tokenizer.path
    if path is None or config.wordless:
        return None
    processor, chosen = TextProcessor.load(path), config.chosen_samples
    use = f"samples of type {chosen.type_name()!r}"
    processor.roles.require_all(chosen.needs(labelled_targets(config.model)), use)
    if chosen.reads == "blocks":
        processor.roles.opening  # noqa: B018 - refuses a tokenizer that cannot separate documents
    return processor


def _padding(corpus: AnyCorpus) -> int | None:
    """Return the id of padding; None: nothing is tokenized, or the tokenizer has none."""
    processor = corpus.processor
    words = processor.text if isinstance(processor, ExampleProcessor) else processor
    return words.roles.pad if isinstance(words, TextProcessor) else None


def _num_tokens(corpus: AnyCorpus) -> int:
    """Return the size of the vocabulary; images have none."""
    processor = corpus.processor
    return 0 if isinstance(processor, ImageProcessor) else processor.vocab_size


def _require_samples(inputs: PretrainInputs) -> None:
    """Build what the workers will build, so that what is missing is reported before they start."""
    config = inputs.config
    StepSource(inputs.train, 1, 1, 0, config.data.weights)
    if not any(map(_has_labels, eval_batches(inputs.held_out, config.train.eval_batch_size))):
        raise InputError(
            f"{config.data.title}: no held-out sample has a label for the model's targets. Give "
            "longer documents, or a larger data.data.validation_fraction."
        )


def _has_labels(batch: Batch) -> bool:
    return any(bool((v != IGNORED).any()) for k, v in batch.items() if k.startswith("labels."))


def open_inputs(job: PretrainJob) -> PretrainInputs:
    """Open what `prepare_inputs` committed and checked; of a corpus, hashes of small files only.

    Raises:
        IntegrityError: It is not what its manifest says.
    """
    guard = None if job.guard is None else open_corpus(local_copy(job.guard), thorough=False)
    return PretrainInputs(job.config, open_data(local_copy(job.corpus)), job.model, guard)


def open_data(path: Path) -> AnyCorpus:
    """Open prepared data of any kind; see `open_inputs`."""
    kind = read_json(path / "manifest.json").get("kind")
    if kind == EXAMPLES:
        return open_examples(path)
    return open_labelled(path) if kind == ROWS else open_corpus(path, thorough=False)


def form_of(config: PretrainConfig) -> LabelForm:
    """Return the form of labels that a job's samples or targets are learned from."""
    if config.chosen_samples.form is not None:
        return FORMS[config.chosen_samples.form]
    return _form_of_targets(config.model)


def _form_of_targets(model: ModelConfig) -> LabelForm:
    names = [target.type_name() for target in model.target]
    return next((FORMS[name] for name in names if name in FORMS), CLASSES)


def name_of_labelled(model: ModelConfig) -> str:
    """Return the name of the target that learns from the labels of rows."""
    return next(each.name for each in model.target if each.type_name() in LabelledConfig.wants)


def require_labels(model: ModelConfig, names: Sequence[str], rows: Rows) -> None:
    """Refuse rows with other labels than a model's targets answer with.

    Args:
        model: The model.
        names: Of the labels.
        rows: Those to learn from.

    Raises:
        InputError: The rows have another number of classes, tags, labels or numbers than the
            target, or a target is for pairs and they have one text.
    """
    form = _form_of_targets(model)
    for target in model.target:
        if isinstance(
            target, ClsConfig | SiameseConfig | TagsConfig | MultilabelConfig | RegressionConfig
        ):
            form.require_size(names, rows.labels, target.num_labels)
        elif isinstance(target, SpConfig):
            form.require_size(names, rows.labels, 2)
        if isinstance(target, SiameseConfig | SpConfig):
            require_pairs(rows)


class HeldOut:
    """The first samples of a data set, a proportional share of each source.

    Args:
        samples: All held-out samples.
        limit: How many to use; None: all.
    """

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
