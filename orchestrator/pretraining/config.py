"""Settings of pre-training and corpus jobs. Imports neither torch nor ray."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.config import ElasticClusterSection, JobConfig, Name, StrictModel
from orchestrator.data.samples.kinds import LabelledConfig, SampleConfig, Samples
from orchestrator.data.spec import CorpusConfig, TokenizerConfig
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.pretraining.model_streams import reads_pictures
from orchestrator.pretraining.objectives import labelled_targets, sample_problems, usual_samples
from orchestrator.training.config import EngineConfig, TrackingSection, TrainConfig, batch_problems

BATCH_FIELDS = ("global_batch_size", "micro_batch_size")
PREFETCHED = 2  # steps ahead where pictures or sounds are decoded


class StartSection(StrictModel):
    """Starting point of a run that does not start from nothing; exactly one is given."""

    run: Name | None = None
    """Name of another run in run.dir: everything is taken from its checkpoint (a branch)."""
    path: str | None = None
    """A run folder elsewhere, or one checkpoint in it; everything is taken from that."""
    package: str | None = None
    """Package of run.zoo, like bert@champion: its weights are taken, and training begins at 0."""
    step: Annotated[int, Field(ge=1)] | Literal["latest"] = "latest"
    """Step of the checkpoint of that run."""

    def problems(self) -> Iterable[Problem]:
        """One place, and a step only where there are several."""
        given = [n for n in ("run", "path", "package") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            yield Problem("", f"{found} given. Give exactly one of run, path and package.")
        elif self.package is not None and self.step != "latest":
            yield Problem("step", "a package has no steps. Leave it out, or start from a run.")


class TrainingSection(TrainConfig):
    """Training, and evaluation on held-out blocks."""

    eval_batch_size: int = Field(64, ge=1)
    """Blocks of one evaluation pass of one worker."""
    eval_blocks: int | None = Field(512, ge=1)
    """Held-out blocks that are measured; null measures all."""
    prefetch_steps: int | None = Field(None, ge=0, le=64)
    """Steps whose batches a thread makes ahead; null: 2 for pictures and sounds, else none."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by name: embedding, encoder.layers.0, encoder.*.bias."""
    start_from: StartSection | None = None
    """Start from a checkpoint of another run or from a package; null: from nothing."""
    keep_every_steps: int = Field(0, ge=0)
    """Keep the checkpoints of multiples of this step, and the last one, so that other
    runs can start from them; 0: a finished run keeps none."""

    def problems(self) -> Iterable[Problem]:
        """Leave the batch sizes to the job, which knows the number of workers."""
        yield from (each for each in super().problems() if each.path not in BATCH_FIELDS)
        keep, every = self.keep_every_steps, self.checkpoint_every_steps
        if keep and (not every or keep % every):
            yield Problem(
                "keep_every_steps",
                f"{keep} is not a multiple of checkpoint_every_steps ({every}). Use one.",
            )


class PackageSection(StrictModel):
    """Name and license of the result in the zoo."""

    name: Name
    """Name of the package; each run that finishes makes its next version."""
    licence: str | None = None
    """SPDX identifier of the license."""


class PretrainConfig(JobConfig):
    """Pre-train a model on a corpus or on labelled rows and commit it as a package."""

    data: CorpusConfig = CorpusConfig()
    """The corpus and its tokenizer, or labelled rows."""
    samples: Samples | None = None
    """Samples made of the corpus; null: the usual ones for the model's targets."""
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
    tracking: TrackingSection = TrackingSection()
    """Trackers that receive the metrics of training, in addition to history.parquet."""

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
    def chosen_samples(self) -> SampleConfig:
        """Return the settings of the samples.

        Raises:
            ConfigError: There are no samples for the model's targets.
        """
        chosen = self.samples or usual_samples(self.model)
        if chosen is None:
            problems = list(sample_problems(self.model, None, self.data))
            raise ConfigError(f"run {self.run.name!r}", problems)
        return chosen

    def model_for(self, tokens: int) -> ModelConfig:
        """Return the model for a tokenizer of this many tokens; 0 where nothing is tokenized.

        Raises:
            ConfigError: The config fixes a smaller vocabulary.
        """
        room = self.model.vocab_size
        if room == 0:
            return self.model.with_vocab(tokens)
        if room < tokens:
            message = (
                f"{room} is smaller than the tokenizer's {tokens} tokens. Use 0 to take those."
            )
            raise ConfigError(f"run {self.run.name!r}", [Problem("model.vocab_size", message)])
        return self.model

    @property
    def prefetch_steps(self) -> int:
        """Steps whose batches are made ahead."""
        columns = set(self.chosen_samples.columns)
        heavy = self.reads_images or bool(columns & {"picture", "sound"})
        given = self.train.prefetch_steps
        return given if given is not None else PREFETCHED if heavy else 0

    @property
    def reads_images(self) -> bool:
        """Whether samples are labelled images and not texts."""
        chosen = self.samples or usual_samples(self.model)
        rows = chosen is None or not chosen.columns
        images = self.data.data.source == "builtin:digits" or (
            isinstance(chosen, LabelledConfig) and reads_pictures(self.model)
        )
        return rows and images and not self.data.mixture

    @property
    def wordless(self) -> bool:
        """Whether nothing is tokenized."""
        columns = self.chosen_samples.columns
        return self.reads_images or bool(columns and "text" not in columns)

    def _length_problems(self) -> Iterator[Problem]:
        chosen = self.samples or usual_samples(self.model)
        if chosen is not None and chosen.columns:
            yield from self._vocabulary_problems()
            return
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
        yield from self._vocabulary_problems()

    def _vocabulary_problems(self) -> Iterator[Problem]:
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
        rows = chosen is not None and chosen.reads != "blocks"
        if rows and self.data.max_documents:
            yield Problem("data.max_documents", "rows are not documents. Use data.data.max_rows.")
        targets = [target.type_name() for target in self.model.target]
        reads_both = self.model.encoder.visibility != "past"
        if "mlm" in labelled_targets(self.model) and not reads_both:
            yield Problem(
                f"model.target.{targets.index('mlm')}.type",
                f"'mlm' needs an encoder that reads both sides of a masked token; "
                f"{self.model.encoder.type_name()!r} as configured reads only what is before it. "
                "Use `mask: bidirectional`, a bidirectional encoder, or the target `lm`.",
            )


class CorpusJobConfig(JobConfig):
    """Make a corpus ready for pre-training: tokenized, packed, in shards, on many workers.

    A pre-training job with the same ``run.dir`` and ``data`` finds it; any other one names its
    folder as ``data.prepared``.
    """

    data: CorpusConfig = CorpusConfig()
    """Documents, tokenizer, block size, size of a shard."""

    def problems(self) -> Iterable[Problem]:
        """The source must be documents that are not prepared yet."""
        if self.data.prepared is not None:
            yield Problem("data.prepared", "is a corpus already. Leave it out, or name a source.")
        elif self.data.data.labelled and not self.data.mixture:
            source = self.data.data.source
            yield Problem("data.data.source", f"{source!r} is not a corpus. Use builtin:pydoc.")
