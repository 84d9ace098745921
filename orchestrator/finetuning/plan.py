"""Description of a job before it runs (``--check``). Needs no cluster."""

from collections.abc import Iterator

import numpy as np

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.data.processors.unknown import unknown_note
from orchestrator.data.rows.checks import check_data
from orchestrator.finetuning.grid import combinations
from orchestrator.finetuning.inputs import FinetuneInputs
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.cost import activation_bytes, count_parameters, training_memory
from orchestrator.tasks.base import HeadOptions, text_processor
from orchestrator.training.finetune.finetune_model import is_costly
from orchestrator.training.finetune.lesson_data import LessonData, Split
from orchestrator.training.finetune.lessons import Lesson

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SHOWN_CLASSES = 12
"""Classes whose counts are listed."""


def data_of(inputs: FinetuneInputs) -> LessonData:
    """Return the batches of a job as one worker of it has them."""
    config = inputs.config
    return LessonData(
        inputs.lessons,
        open_processor(inputs.package.path),
        config.train,
        inputs.max_length,
        config.seed,
        world=config.cluster.workers,
        micro_batch_size=config.train.micro_batch_size,
        short_passes=not config.cluster.gpus_per_worker and is_costly(build_on_meta(inputs.model)),
    )


def steps_of(inputs: FinetuneInputs) -> int:
    """Return the optimizer steps of all epochs."""
    config = inputs.config.train
    size, steps = config.global_batch_size, 0
    for lesson in inputs.lessons:
        rows = min(len(lesson.data.train), config.max_train_rows or len(lesson.data.train))
        steps += -(-rows // min(size, rows))
    return config.epochs * steps


def describe(inputs: FinetuneInputs) -> str:
    """Return the text of ``--check``."""
    config, data = inputs.config, data_of(inputs)
    train, cluster = config.train, config.cluster
    rows = {
        "run": f"{config.run.name}: {inputs.package.ref} → package {config.output} in "
        f"{config.run.zoo}",
        **{
            f"task {lesson.head}": line
            for index, lesson in enumerate(inputs.lessons)
            for line in [_task_line(inputs, data, index)]
        },
        "heads": _heads(inputs),
        "trained": _trained(inputs),
        **({} if inputs.teaching is None else {"teacher": _teacher(inputs)}),
        "rate": _rate(inputs),
        **({} if config.search is None else {"search": _search(inputs)}),
        "steps": f"{train.epochs} epochs × {data.steps_per_epoch} = "
        f"{train.epochs * data.steps_per_epoch:,} steps of {data.global_batch_size} rows = "
        f"{cluster.workers} workers × micro-batches of {data.micro_batch_size}",
        "best": f"the epoch with the best {inputs.lessons[0].task.primary.name} on validation rows"
        + ("" if train.patience is None else f"; ends after {train.patience} without a gain"),
        "engine": f"{config.engine.title}, {config.engine.precision}, {cluster.workers} × "
        f"{cluster.cpus_per_worker:g} CPU, {cluster.gpus_per_worker:g} GPU",
        "memory": _memory(inputs, data),
    }
    return "\n".join(f"{name:12} {text}" for name, text in rows.items())


def _task_line(inputs: FinetuneInputs, data: LessonData, index: int) -> str:
    lesson, detected = inputs.lessons[index], inputs.detected[index]
    parts = [
        f"{lesson.task.kind()} ({detected.reason}) of {lesson.data.train.modality} rows",
        ", ".join(f"{split} {len(data.rows(split, index)):,}" for split in SPLITS),
        *_counts(lesson),
        *_left_out(lesson),
        *_truncated(data, index),
        *filter(None, [unknown_note(inputs.unknown_shares.get(lesson.head))]),
    ]
    return "; ".join(parts)


def _counts(lesson: Lesson) -> Iterator[str]:
    """Yield the classes with their number of training rows."""
    if lesson.task.kind() != "classification":
        if lesson.task.labels:
            shown = ", ".join(lesson.task.labels[:SHOWN_CLASSES])
            more = ", ..." if len(lesson.task.labels) > SHOWN_CLASSES else ""
            yield f"{len(lesson.task.labels)} labels ({shown}{more})"
        return
    names = lesson.task.labels
    counts = np.bincount(lesson.data.train.labels, minlength=len(names)).tolist()
    pairs = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    more = ", ..." if len(pairs) > SHOWN_CLASSES else ""
    yield f"{len(names)} classes ({', '.join(pairs[:SHOWN_CLASSES])}{more})"


def _left_out(lesson: Lesson) -> Iterator[str]:
    """Yield how many rows were left out and why, and classes that a split lacks."""
    if lesson.data.rejected:
        reasons = ", ".join(f"{count:,} × {why}" for why, count in lesson.data.rejected.items())
        yield f"left out: {reasons}"
    yield from lesson.data.notes
    report = check_data(lesson.data, lesson.task.form())
    for split, names in report.missing_classes.items():
        yield f"{split} has no row of {', '.join(names)}"


def _truncated(data: LessonData, index: int) -> Iterator[str]:
    """Yield how many training texts are longer than the limit."""
    rows, processor = data.rows("train", index), text_processor(data.processor)
    if processor is None or not rows.texts:
        return
    texts = [text.replace("\n", " ") for text in rows.texts]
    limit = data.max_length
    # One token more than the limit shows which texts are longer.
    tokens = processor.arrays(texts, rows.pairs, limit + 1, "right")["attention_mask"].sum(axis=1)
    longer = int((tokens > limit).sum())
    yield f"{longer:,} of {len(texts):,} training texts are cut to {limit} tokens"


def _heads(inputs: FinetuneInputs) -> str:
    parts = []
    for lesson in inputs.lessons:
        state = "new"
        if lesson.head in inputs.earlier:
            state = "made anew (other labels)" if lesson.head in inputs.renewed else "continued"
        parts.append(f"{lesson.head} ({lesson.task.target(HeadOptions()).type_name()}, {state})")
    parts += [f"{head.name} (kept, not trained)" for head in inputs.kept]
    if inputs.dropped:
        parts.append(f"dropped: {', '.join(inputs.dropped)} (keep_heads: true keeps them)")
    return "; ".join(parts)


def _teacher(inputs: FinetuneInputs) -> str:
    plan = inputs.teaching
    assert plan is not None
    assert inputs.teacher is not None
    options, parts = plan.options, [inputs.teacher.ref]
    if options.soft_weight:
        heads = ", ".join(f"{task.head} → {head}" for head, task in plan.tasks.items())
        weight = f"weight {options.soft_weight:g}, temperature {options.temperature:g}"
        parts.append(f"answers of {heads} ({weight})")
    if plan.layers is not None:
        pairs = zip(plan.layers.teacher, plan.layers.student, strict=True)
        shown = ", ".join(f"{theirs} → {mine}" for theirs, mine in pairs)
        parts.append(f"layers {shown} (weight {options.hidden_weight:g})")
    return "; ".join(parts)


def _search(inputs: FinetuneInputs) -> str:
    search, config = inputs.config.search, inputs.config
    assert search is not None
    tried = combinations(search, config, inputs.usual_rate.value)
    axes = {name: getattr(search, name) for name in search.axes()}
    shown = " × ".join(f"{name} {list(values)}" for name, values in axes.items() if values)
    epochs = sum(values.epochs for values in tried)
    return (
        f"{len(tried)} trials ({shown}) of {epochs} epochs together at most, "
        f"{config.cluster.cpus_per_worker:g} CPU each; the best one's values are trained with"
    )


def _rate(inputs: FinetuneInputs) -> str:
    given, usual = inputs.config.train.learning_rate, inputs.usual_rate
    if given is None:
        return f"{usual.value:g}, for {usual.reason}"
    return "auto: up to 4 values are tried" if given == "auto" else f"{given:g}, as the job says"


def _trained(inputs: FinetuneInputs) -> str:
    train = inputs.config.train
    if train.lora is not None:
        return f"heads and LoRA of rank {train.lora.rank} on {', '.join(train.lora.layers)}"
    what = f"all but {', '.join(train.freeze)}" if train.freeze else "all weights"
    if train.adversarial is None:
        return what
    options = train.adversarial
    return f"{what}; also at a word table moved by {options.epsilon:g} ({options.type})"


def _memory(inputs: FinetuneInputs, data: LessonData) -> str:
    config, train = inputs.config, inputs.config.train
    options = HeadOptions(pooling=train.pooling, hidden=train.hidden, dropout=train.dropout)
    heads = [lesson.target(options) for lesson in inputs.lessons]
    model = inputs.model.with_targets([*heads, *inputs.kept])
    total = training_memory(
        count_parameters(model).total,
        precision=config.engine.precision,
        workers=config.cluster.workers,
        zero_stage=config.engine.sharding_stage,
    ).total
    total += activation_bytes(
        model,
        batch_size=data.micro_batch_size,
        length=data.max_length,
        precision=config.engine.precision,
        checkpointing=config.engine.activation_checkpointing,
    )
    return f"{total / 1e6:,.0f} MB per worker at most, libraries not counted"
