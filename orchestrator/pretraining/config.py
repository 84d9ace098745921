"""Settings of a pre-training job. Imports neither torch nor ray."""

from collections.abc import Iterable, Iterator

from pydantic import Field

from orchestrator.config import ElasticClusterSection, JobConfig, Name, StrictModel
from orchestrator.data.sample_configs import AnySamples
from orchestrator.data.spec import CorpusConfig, TokenizerConfig
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.pretraining.objectives import labelled_targets, sample_problems, usual_samples
from orchestrator.training.config import EngineConfig, TrainConfig, batch_problems

BATCH_FIELDS = ("global_batch_size", "micro_batch_size")


class TrainingSection(TrainConfig):
    """How the model is trained and how it is measured on held-out blocks."""

    eval_batch_size: int = Field(64, ge=1)
    """Blocks of one evaluation pass of one worker."""
    eval_blocks: int | None = Field(512, ge=1)
    """Held-out blocks that are measured; null measures all."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by name: embedding, encoder.layers.0, encoder.*.bias."""

    def problems(self) -> Iterable[Problem]:
        """Leave the batch sizes to the job, which knows the number of workers."""
        return [each for each in super().problems() if each.path not in BATCH_FIELDS]


class PackageSection(StrictModel):
    """What the result is called in the zoo."""

    name: Name
    """Name of the package; each run that finishes makes its next version."""
    licence: str | None = None
    """SPDX identifier of the licence."""


class PretrainConfig(JobConfig):
    """Pre-train a model on a corpus or on labelled rows and commit it as a package."""

    data: CorpusConfig = CorpusConfig()
    """The corpus and its tokenizer, or labelled rows."""
    samples: AnySamples | None = None
    """How samples are made of it; null: in the usual way for the model's targets."""
    model: ModelConfig
    """The model: five components by name. vocab_size 0 takes the tokenizer's."""
    train: TrainingSection = TrainingSection()
    """Steps, batches, optimizer, schedule, intervals."""
    engine: EngineConfig = EngineConfig()
    """The training engine."""
    package: PackageSection
    """The package that is committed."""
    cluster: ElasticClusterSection = ElasticClusterSection()
    """The Ray cluster to run on, and how many workers of it."""

    def problems(self) -> Iterable[Problem]:
        """Everything that only the whole job can tell."""
        yield from self._batch_problems()
        yield from self._engine_problems()
        yield from self._length_problems()
        yield from self._target_problems()

    def _batch_problems(self) -> Iterator[Problem]:
        """The batch stays the same whatever the number of workers: it must divide over each."""
        sizes = (self.train.global_batch_size, self.train.micro_batch_size)
        for workers in self.cluster.worker_counts:
            for problem in batch_problems(*sizes, workers):
                message = problem.message.replace("global_batch_size", "train.global_batch_size")
                yield Problem(f"train.{problem.path}", message)

    def _engine_problems(self) -> Iterator[Problem]:
        most = self.cluster.worker_counts[-1]
        for problem in self.engine.problems_with(most, self.train.optimizer):
            yield Problem(f"engine.{problem.path}", problem.message)

    @property
    def chosen_samples(self) -> AnySamples:
        """How samples are made.

        Raises:
            ConfigError: There are no samples for the model's targets.
        """
        chosen = self.samples or usual_samples(self.model)
        if chosen is None:
            problems = list(sample_problems(self.model, None, self.data))
            raise ConfigError(f"run {self.run.name!r}", problems)
        return chosen

    @property
    def reads_images(self) -> bool:
        """Whether samples are images and not texts."""
        return self.data.data.source == "builtin:digits" and not self.data.mixture

    def _length_problems(self) -> Iterator[Problem]:
        if self.reads_images:
            yield from self._image_problems()
            return
        length, longest = self.data.block_size, self.model.max_position_embeddings
        if length > longest:
            yield Problem(
                "data.block_size",
                f"{length} exceeds model.max_position_embeddings ({longest}). Raise that, or use "
                f"blocks of {longest} tokens or fewer.",
            )
        wanted, room = self.data.tokenizer.vocab_size, self.model.vocab_size
        if room and self.data.tokenizer.path is None and room < wanted:
            yield Problem(
                "model.vocab_size",
                f"{room} is smaller than data.tokenizer.vocab_size ({wanted}). Use 0 to take the "
                "tokenizer's.",
            )

    def _image_problems(self) -> Iterator[Problem]:
        if self.data.tokenizer != TokenizerConfig():
            yield Problem("data.tokenizer", "images have no tokenizer. Leave it out.")
        if self.model.embedding.part("word") is not None:
            yield Problem("model.embedding.parts", "images have no words. Use a patch part.")

    def _target_problems(self) -> Iterator[Problem]:
        yield from sample_problems(self.model, self.samples, self.data)
        chosen = self.samples or usual_samples(self.model)
        if chosen is not None and chosen.type == "labelled" and self.data.max_documents:
            yield Problem("data.max_documents", "rows are no documents. Use data.data.max_rows.")
        targets = [target.type_name() for target in self.model.target]
        reads_both = self.model.encoder.sight != "past"
        if "mlm" in labelled_targets(self.model) and not reads_both:
            yield Problem(
                f"model.target.{targets.index('mlm')}.type",
                f"'mlm' needs an encoder that reads both sides of a masked token; "
                f"{self.model.encoder.type_name()!r} as configured reads only what is before it. "
                "Use `mask: bidirectional`, a bidirectional encoder, or the target `lm`.",
            )
