"""Plan of a pre-training job before it runs: sizes, memory, steps. Needs no cluster."""

from dataclasses import dataclass

from orchestrator.data.processors.roles import OURS
from orchestrator.data.processors.segmenters import NoSegmenterConfig, build_segmenter
from orchestrator.data.samples.kinds import ExamplesConfig
from orchestrator.data.sources.opening import list_entries, load_task, open_documents, split_entries
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import (
    ModelSizes,
    Parameters,
    activation_bytes,
    count_parameters,
    model_sizes,
)
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.estimate_memory import (
    WorkerMemory,
    optimizer_memory,
    show_bytes,
    worker_memory,
)
from orchestrator.pretraining.inputs import form_of, masking_of, named_tokenizer, require_labels


@dataclass(frozen=True, slots=True)
class Plan:
    """A job in numbers.

    Attributes:
        config: The job.
        model: Its model with the vocabulary filled in.
        parameters: By part.
        sizes: Of the model; frozen parameters are not trained.
        memory: Of one worker.
    """

    config: PretrainConfig
    model: ModelConfig
    parameters: Parameters
    sizes: ModelSizes
    memory: WorkerMemory

    @property
    def tokens(self) -> int:
        """Tokens that all steps read."""
        train = self.config.train
        return train.max_steps * train.global_batch_size * self.config.data.block_size


def make_plan(config: PretrainConfig) -> Plan:
    """Resolve a job's inputs and estimate it; builds on the meta device only.

    Raises:
        ConfigError: The model cannot be built, or its vocabulary is smaller than the tokenizer's.
        InputError: The corpus or the tokenizer is not there, rows have other labels than the
            targets, or ``train.freeze`` names what the model does not have.
    """
    chosen = config.chosen_samples
    rule = masking_of(config)
    if rule is not None and not isinstance(rule.segmenter, NoSegmenterConfig):
        build_segmenter(rule.segmenter)  # refused here where its library is missing
    if isinstance(chosen, ExamplesConfig):
        if config.data.data.scheme == "files":
            split_entries(config.data.data, list_entries(config.data.data, chosen.columns))
    elif chosen.reads == "rows":
        task = load_task(config.data.data, form=form_of(config))
        require_labels(config.model, task.label_names, task.train)
    else:
        for spec in () if config.data.prepared else config.data.specs:
            open_documents(spec)
    model = config.model_for(*expected_vocabulary(config))
    parameters = count_parameters(model)
    sizes = model_sizes(model, config.train.freeze)
    activations = activation_bytes(
        model,
        batch_size=config.train.micro_batch_size,
        length=config.data.block_size,
        precision=config.engine.precision,
        checkpointing=config.engine.activation_checkpointing,
        tensor_ranks=config.engine.tensor_parallel,
        positions_cut=config.engine.sequence_parallel,
    )
    share = config.train.global_batch_size // config.engine.data_ranks(config.cluster.workers)
    memory = worker_memory(
        sizes,
        config.engine,
        config.cluster.workers,
        activations,
        micro_batches=share // config.train.micro_batch_size,
        optimizer=optimizer_memory(config.train, model),
        accelerated=config.cluster.gpus_per_worker > 0,
    )
    return Plan(config, model, parameters, sizes, memory)


def expected_vocabulary(config: PretrainConfig) -> tuple[int, int | None]:
    """Return how many tokens the tokenizer will have at most, and its padding; images need none."""
    if config.wordless:
        return 0, None
    processor = named_tokenizer(config)
    if processor is None:
        return config.data.tokenizer.vocab_size, OURS.pad
    return processor.vocab_size, processor.roles.pad


def describe(plan: Plan) -> str:
    """Return the text of ``--check``."""
    config, train, engine = plan.config, plan.config.train, plan.config.engine
    workers = config.cluster.workers
    readers = engine.data_ranks(workers)
    micro = train.global_batch_size // readers // train.micro_batch_size
    groups = "workers" if readers == workers else f"groups of {engine.tensor_parallel} workers"
    parts = " + ".join(f"{name} {count:,}" for name, count in plan.parameters.by_part.items())
    rows = {
        "run": f"{config.run.name} → package {config.package.name} in {config.run.zoo}",
        "corpus": _corpus(config),
        "samples": _samples(config),
        "tokenizer": _tokenizer(config),
        "parameters": f"{plan.parameters.total:,} = {parts}{_frozen(plan)}",
        "engine": f"{engine.title}, {engine.precision}, {workers} × "
        f"{config.cluster.cpus_per_worker:g} CPU, {config.cluster.gpus_per_worker:g} GPU",
        "memory": f"{show_bytes(plan.memory.total)} per worker = {plan.memory.formula()}",
        "batch": f"{train.global_batch_size} = {readers} {groups} × {micro} micro-batches × "
        f"{train.micro_batch_size} samples",
        "steps": f"{train.max_steps:,} steps, {_amount(plan)}{_late(plan)}",
        "checkpoints": _every(train.checkpoint_every_steps),
        "evaluation": _every(train.eval_every_steps),
    }
    return "\n".join(f"{name:12} {text}" for name, text in rows.items())


def _frozen(plan: Plan) -> str:
    fixed = plan.sizes.total - plan.sizes.trained
    return f", {fixed:,} of them frozen" if fixed else ""


def _late(plan: Plan) -> str:
    late = plan.config.train.late_steps
    return f"; two gradients in each of the last {late:,}" if late else ""


def _amount(plan: Plan) -> str:
    """Return how much all steps read."""
    train = plan.config.train
    chosen = plan.config.chosen_samples
    if chosen.reads != "blocks":
        return f"{train.max_steps * train.global_batch_size:,} rows"
    return f"{plan.tokens:,} tokens at most"


def _corpus(config: PretrainConfig) -> str:
    chosen = config.chosen_samples
    if chosen.columns:
        most = config.data.data.max_rows or "all"
        return f"{config.data.title}, at most {most} examples with {' and '.join(chosen.columns)}"
    if chosen.reads == "rows":
        return f"{config.data.title}, at most {config.data.data.max_rows or 'all'} rows"
    prepared = f"{config.data.prepared}: " if config.data.prepared else ""
    return (
        f"{prepared}{config.data.title}, at most "
        f"{config.data.specs[0].max_documents or 'all'} documents, "
        f"blocks of {config.data.block_size} tokens"
    )


def _samples(config: PretrainConfig) -> str:
    weights = config.data.weights
    mixed = "" if weights is None else f", mixed {' : '.join(f'{w:g}' for w in weights)}"
    names = ", ".join(target.name for target in config.model.target)
    return f"{config.chosen_samples.type_name()} for {names}{mixed}"


def _tokenizer(config: PretrainConfig) -> str:
    tokenizer = config.data.tokenizer
    if config.wordless:
        return "none: images"
    return tokenizer.path or f"{tokenizer.type}, {tokenizer.vocab_size} tokens"


def _every(steps: int) -> str:
    return f"every {steps} steps and at the end" if steps else "at the end"
