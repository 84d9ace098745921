"""Settings of a pre-training job. Imports neither torch nor ray."""

from collections.abc import Iterable, Iterator

from pydantic import Field

from orchestrator.config import ElasticClusterSection, JobConfig, Name, StrictModel
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import EngineConfig, TrainConfig, batch_problems

BATCH_FIELDS = ("global_batch_size", "micro_batch_size")

OBJECTIVES = ("mlm", "lm", "bilm")
"""Targets that a corpus has labels for."""


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
    """Pre-train a model on a corpus and commit it as a package."""

    data: CorpusConfig = CorpusConfig()
    """The corpus and its tokenizer."""
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

    def _length_problems(self) -> Iterator[Problem]:
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

    def _target_problems(self) -> Iterator[Problem]:
        allowed = ", ".join(OBJECTIVES)
        if len(self.model.target) != 1:
            yield Problem(
                "model.target",
                f"has {len(self.model.target)} targets. Pre-training on a corpus takes one of "
                f"{allowed}.",
            )
            return
        kind = self.model.target[0].type_name()
        if kind not in OBJECTIVES:
            yield Problem(
                "model.target.0.type",
                f"{kind!r} cannot be trained on a corpus. Use one of {allowed}.",
            )
        if kind == "mlm" and self.model.encoder.sight == "past":
            yield Problem(
                "model.target.0.type",
                f"'mlm' needs an encoder that reads both sides of a masked token; "
                f"{self.model.encoder.type_name()!r} as configured reads only what is before it. "
                "Use `mask: bidirectional`, a bidirectional encoder, or the target `lm`.",
            )
