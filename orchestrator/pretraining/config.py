"""Settings of pre-training and corpus jobs. Imports neither torch nor ray."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, JsonValue, model_validator
from pydantic.config import JsonDict

from orchestrator.config import ElasticClusterSection, JobConfig
from orchestrator.config.changes import Changes
from orchestrator.config.job import RunProgress
from orchestrator.data.samples.kinds import LabelledConfig, SampleConfig, Samples
from orchestrator.data.spec import CorpusConfig, TokenizerConfig
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.pretraining import resuming
from orchestrator.pretraining.continued import FROM, complete
from orchestrator.pretraining.job_sections import GuardSection, PackageSection, TrainingSection
from orchestrator.pretraining.model_streams import reads_pictures
from orchestrator.pretraining.objectives import labelled_targets, sample_problems, usual_samples
from orchestrator.storage.uris import local_path
from orchestrator.training.config import EngineConfig, TrackingSection, batch_problems
from orchestrator.training.engines.layer_cuts import cut_problems

PREFETCHED = 2  # steps whose batches are made ahead


def _or_a_package(schema: JsonDict) -> None:
    """Add the second form of the section model to the JSON schema."""
    package: JsonDict = {
        "type": "object",
        "properties": {"from": {"type": "string"}, "target": {}},
        "required": ["from"],
        "additionalProperties": False,
    }
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, package]


class PretrainConfig(JobConfig):
    """Pre-train a model on a corpus or on labelled rows and commit it as a package."""

    remote_runs: ClassVar[bool] = True
    changes: ClassVar[Changes] = resuming.CHANGES

    data: CorpusConfig = CorpusConfig()
    """The corpus and its tokenizer, or labelled rows."""
    samples: Samples | None = None
    """Samples made of the corpus; null: the usual ones for the model's targets."""
    model: ModelConfig = Field(json_schema_extra=_or_a_package)
    """The model: five components by name; vocab_size 0 takes the tokenizer's. Or ``from: PACKAGE``
    goes on training that package: architecture, tokenizer and weights are its, and ``target`` may
    name other heads."""
    train: TrainingSection = TrainingSection()
    """Steps, batches, optimizer, schedule, intervals."""
    engine: EngineConfig = EngineConfig()
    """The training engine."""
    guard: GuardSection | None = None
    """Limit for forgetting, in a run that starts from a package; null: none."""
    package: PackageSection
    """The package that is committed."""
    cluster: ElasticClusterSection = ElasticClusterSection()
    """The Ray cluster to run on, and how many workers of it."""
    tracking: TrackingSection = TrackingSection()
    """Trackers that receive the metrics of training, in addition to history.parquet."""

    @model_validator(mode="before")
    @classmethod
    def _continued(cls, data: Any) -> Any:
        """Complete ``model: {from: PACKAGE}``."""
        model = data.get("model") if isinstance(data, dict) else None
        return complete(data) if isinstance(model, dict) and FROM in model else data

    def fixed(self, before: Mapping[str, JsonValue], progress: RunProgress) -> Iterable[Problem]:
        """Yield settings that decide the result of this job, although not of every one."""
        return resuming.fixed(self, before, progress)

    def prolongs(self, before: Mapping[str, JsonValue]) -> bool:
        """Return whether this is the finished run with more steps."""
        return resuming.prolongs(self, before)

    def way_on(self) -> str:
        """Return what to do instead of changing what a run learns."""
        return resuming.way_on(self)

    def problems(self) -> Iterable[Problem]:
        """Everything that only the whole job can tell."""
        yield from self._guard_problems()
        yield from self._batch_problems()
        yield from self._engine_problems()
        yield from self._length_problems()
        yield from self._target_problems()
        yield from self._place_problems()

    def _batch_problems(self) -> Iterator[Problem]:
        """The batch stays the same whatever the number of workers: it must divide over each."""
        sizes = (self.train.global_batch_size, self.train.micro_batch_size)
        for workers in self.cluster.worker_counts:
            if workers % self.engine.tensor_parallel:
                continue  # refused as a setting of the engine
            for problem in batch_problems(*sizes, self.engine.data_ranks(workers)):
                message = problem.message.replace("global_batch_size", "train.global_batch_size")
                yield Problem(f"train.{problem.path}", message)

    def _place_problems(self) -> Iterator[Problem]:
        """Settings that a run folder on an object store rules out."""
        if local_path(self.run.dir) is not None:
            return
        if self.train.eval_beside:
            yield Problem(
                "train.eval_beside", f"needs a folder that workers share: run.dir is {self.run.dir}"
            )
        mlflow = self.tracking.mlflow
        if mlflow and not mlflow.tracking_uri and not os.environ.get("MLFLOW_TRACKING_URI"):
            yield Problem(
                "tracking.mlflow",
                f"needs a tracking_uri (or MLFLOW_TRACKING_URI) where run.dir is {self.run.dir}: "
                "its default is a database file beside the runs.",
            )

    def _guard_problems(self) -> Iterator[Problem]:
        if self.guard is None:
            return
        if self.train.eval_beside:
            yield Problem(
                "train.eval_beside", "the guard decides before the next step. Leave out one."
            )
        start = self.train.start_from
        if start is None or start.package is None:
            yield Problem("guard", "is for runs from a package. Set model.from, or leave it out.")
        chosen = self.samples or usual_samples(self.model)
        if chosen is not None and chosen.reads != "blocks":
            yield Problem("guard", f"reads documents, not {chosen.type_name()} samples.")
        if self.guard.data.labelled or self.guard.data.examples:
            source = self.guard.data.source
            yield Problem("guard.data.source", f"{source!r} is not a corpus. Use builtin:pydoc.")

    def _engine_problems(self) -> Iterator[Problem]:
        counts, found = self.cluster.worker_counts, list[Problem]()
        for workers in (counts[-1], *counts):
            found = found or list(self.engine.problems_with(workers, self.train.optimizer))
        yield from (Problem(f"engine.{each.path}", each.message) for each in found)
        for problem in cut_problems(self.model, self.engine):
            yield Problem(f"model.{problem.path}", problem.message)

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

    def model_for(self, tokens: int, pad: int | None = None) -> ModelConfig:
        """Return the model for a tokenizer.

        Args:
            tokens: Number of its ids; 0 where nothing is tokenized.
            pad: Its id of padding; None: it has none.

        Raises:
            ConfigError: The config fixes a smaller vocabulary, or another id of padding.
        """
        room, model = self.model.vocab_size, self.model
        if pad not in (None, model.pad_token_id) and self.train.start_from is None:
            if "pad_token_id" in model.model_fields_set:
                message = f"{model.pad_token_id} is not the tokenizer's ({pad}). Leave it out."
                raise ConfigError(
                    f"run {self.run.name!r}", [Problem("model.pad_token_id", message)]
                )
            model = model.model_copy(update={"pad_token_id": pad})
        if room == 0:
            return model.with_vocab(tokens)
        if room < tokens:
            message = (
                f"{room} is smaller than the tokenizer's {tokens} tokens. Use 0 to take those."
            )
            raise ConfigError(f"run {self.run.name!r}", [Problem("model.vocab_size", message)])
        return model

    @property
    def prefetch_steps(self) -> int:
        """Steps whose batches are made ahead."""
        given = self.train.prefetch_steps
        return PREFETCHED if given is None else given

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
