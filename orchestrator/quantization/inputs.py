"""Inputs of a quantization job: package, model and encoded rows, resolved and checked once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.data.processors.example_processor import RowProcessor, open_processor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.inference.heads import default_head, package_tasks
from orchestrator.quantization.backends.backend import Backend, Written
from orchestrator.quantization.backends.choosing import choose_backend
from orchestrator.quantization.calibrators.calibrator import Calibrator, make_calibrator
from orchestrator.quantization.checks import check_backend, check_method, check_settings
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.encoding import RowReader
from orchestrator.quantization.goals import check_goal, check_slices
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.measures import Split
from orchestrator.quantization.plans import Unit
from orchestrator.quantization.source import (
    Source,
    check_labels,
    choose_task,
    input_limit,
    read_source,
)
from orchestrator.quantization.unlabelled import load_texts
from orchestrator.tasks.base import AnyTask, form_of, forms_read, text_processor
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite

if TYPE_CHECKING:
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.zoo import Package

PROBE_CHARACTERS: Final = 300
"""Longest text of a probe: probes are read by people too."""
ROW_KINDS: Final = ("classification", "multilabel", "regression")
"""Kinds that answer one sequence with one row of numbers: they can be asked about one text."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Encoded rows: to calibrate on, to choose by, and to confirm on."""

    calibration: Split
    validation: Split
    test: Split


@dataclass(frozen=True, slots=True)
class Timing:
    """The timed batch, and the number of measurements."""

    batch_size: int
    """Texts per call."""
    length: int
    """Tokens of each text."""
    rounds: int
    """Rounds in which every candidate is called."""
    calls: int
    """Smallest number of calls of a candidate per round."""
    buckets: Mapping[str, tuple[int, int]]
    """Other shapes that the goal bounds: rows and tokens by name."""


@dataclass(frozen=True, slots=True)
class QuantizeInputs:
    """Everything that a measuring task needs, as plain values that travel to other processes."""

    source: Source
    """The float model; with ranges once it is calibrated."""
    task: AnyTask | None
    """Task whose primary metric counts; None: the package answers with embeddings only."""
    labelled: bool
    """Whether the rows have labels."""
    heads: Mapping[str, str]
    """Task kind of the targets whose answers are compared with the float model's."""
    goal: GoalConfig
    """Bounds of the job."""
    texts: Texts
    """Encoded rows."""
    cut: Mapping[int, Texts]
    """The same rows, cut at each shorter length that is tried."""
    timing: Timing
    """The timed batch."""
    backend: Backend
    """Runtime to measure with."""
    calibrator: Calibrator
    """Chooses the ranges."""

    def texts_of(self, length: int | None) -> Texts:
        """Return the rows as a package with this limit reads them; None: with its own."""
        return self.texts if length is None else self.cut[length]

    def calibrated(self, ranges: dict[str, Range]) -> "QuantizeInputs":
        """Return the same inputs with the input range of every unit."""
        return replace(self, source=replace(self.source, ranges=ranges))


@dataclass(frozen=True, slots=True)
class Subject:
    """The package to quantize, and what is known of it without data."""

    package: "Package"
    source: Source
    task: AnyTask | None
    """Task that counts; None: the package answers with embeddings only."""
    heads: Mapping[str, AnyTask]
    """Tasks of the heads that the graph answers with."""
    limit: int
    """Longest input in tokens."""
    emission: Written
    """The float model in the form of the back end."""
    backend: Backend
    """Runtime that plans are measured on."""
    reason: str | None
    """Reason for another back end than the usual one; None: it is that one, or the job names it."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that plans choose kinds for."""
        return self.emission.units

    @property
    def target(self) -> str | None:
        """Name of the head of the task that counts."""
        return None if self.task is None else self.task.head


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that is ready to be measured."""

    subject: Subject
    inputs: QuantizeInputs
    processor: RowProcessor | None
    """Its tokenizer, or its processors; None: it reads images as they are."""
    data: TaskData
    """The rows."""
    spec: DatasetSpec
    """Their source."""
    probe: list[str]
    """Texts whose answers are stored with the package."""

    @property
    def words(self) -> "TextProcessor | None":
        """The tokenizer; None: the package reads no texts."""
        return text_processor(self.processor)


def read_subject(config: QuantizeConfig) -> Subject:
    """Read the package, and find its task, its limits and its units.

    Raises:
        InputError: If it is quantized already, has no fitting target, has no part that can be
            executed in INT8, or a goal or a setting has no meaning for it.
    """
    package = Zoo(config.run.zoo).get(config.package)
    if package.kind == "quantized":
        raise InputError(
            f"package: {package.ref} is quantized already; give the float package it was made from"
        )
    source = read_source(package.path)
    chosen, tasks = choose_backend(config.backend, source), package_tasks(package)
    emission, graph = chosen.written, chosen.written.heads
    task = choose_task(tasks, graph, config.target, default_head(package, tasks))
    limit = input_limit(config, source.model_config, package)
    if task is None and source.statement is not None:
        limit = min(limit, source.statement.max_length)
    if task is not None and task.writes_text:
        raise InputError(
            f"package: {package.ref} writes texts about recordings, and this job measures answers "
            "of one pass. Serve the package as it is"
        )
    check_settings(config, package, source.model_config, limit)
    check_backend(config, chosen.backend)
    check_method(config, emission.units)
    check_goal(config.goal, task, package.ref)
    heads = {name: tasks[name] for name in graph if name in tasks}
    return Subject(package, source, task, heads, limit, emission, chosen.backend, chosen.reason)


def data_of(config: QuantizeConfig, subject: Subject) -> DatasetSpec:
    """Return the data of the job, or those that the package's suite names for the target.

    Raises:
        InputError: Neither names any.
    """
    if config.data is not None:
        return config.data
    suite = read_suite(subject.package)
    exam = None if suite is None or subject.target is None else suite.exams.get(subject.target)
    if exam is None or not exam.data.spec:
        raise InputError(
            f"data: {subject.package.ref} does not name the data it was trained on. Give "
            "data.source, for example data.source=files:rows.jsonl"
        )
    return DatasetSpec.model_validate(exam.data.spec)


def prepare(config: QuantizeConfig) -> Prepared:
    """Read the package and the data, and require that they belong together.

    Raises:
        InputError: If they do not, or nothing in the package can be executed in INT8.
    """
    subject = read_subject(config)
    spec = data_of(config, subject)
    subject, data = _read_data(config, subject, spec)
    processor = open_processor(subject.package.path)
    reader = RowReader(processor, subject.task, subject.source.statement, config.batch_size)
    timing, goal = config.latency, config.goal
    texts = _encode(data, reader, config, subject.limit)
    if goal.gates and subject.task is not None:
        rows = {"validation": texts.validation.rows, "test": texts.test.rows}
        check_slices(goal, subject.task, rows)
    inputs = QuantizeInputs(
        source=subject.source,
        task=subject.task,
        labelled=not _without_labels(config, subject),
        heads=_compared(subject),
        goal=goal,
        texts=texts,
        cut={
            length: _encode(data, reader, config, length)
            for length in sorted(config.lengths, reverse=True)
        },
        timing=Timing(
            batch_size=timing.batch_size,
            length=timing.length or subject.limit,
            rounds=timing.rounds,
            calls=timing.calls,
            buckets={b.name: (b.batch_size, b.length) for b in goal.buckets},
        ),
        backend=subject.backend,
        calibrator=make_calibrator(config.calibrator),
    )
    words = text_processor(processor)
    probe = probe_texts(data.test, words, config.probe_texts, subject.limit) if words else []
    return Prepared(subject, inputs, processor, data, spec, probe)


def _without_labels(config: QuantizeConfig, subject: Subject) -> bool:
    return subject.task is None or config.goal.without_labels


def _read_data(
    config: QuantizeConfig, subject: Subject, spec: DatasetSpec
) -> tuple[Subject, TaskData]:
    """Read rows as the goal needs them, and the task with the names of their labels."""
    cache = None if config.cache is None else Path(config.cache)
    if _without_labels(config, subject):
        if subject.task is not None and "text" not in subject.task.modalities:
            raise InputError(
                f"goal: target {subject.task.head!r} reads rows of "
                f"{' or '.join(sorted(subject.task.modalities))}, not single texts. Give "
                "goal.max_accuracy_drop and labelled rows"
            )
        return subject, load_texts(spec, config.calibration_rows, cache)
    assert subject.task is not None
    data = load_task(spec, cache, subject.task.form())
    if (form := form_of(data.train)) not in forms_read(subject.source.model_config):
        raise InputError(f"data: {data.name} holds {form}; {subject.package.ref} reads others")
    stored = subject.package.manifest.task
    task = check_labels(subject.task, data, stored.labels if stored is not None else None)
    return replace(subject, task=task), data


def _compared(subject: Subject) -> dict[str, str]:
    """Return the kinds of the targets that the rows can be asked about."""
    if subject.task is None:
        return {}
    kind = subject.task.kind()
    if kind not in ROW_KINDS:
        return {subject.task.head: kind}
    kinds = {name: task.kind() for name, task in subject.heads.items()}
    return {name: each for name, each in kinds.items() if each in ROW_KINDS}


def _encode(data: TaskData, reader: RowReader, config: QuantizeConfig, limit: int) -> Texts:
    rows, seed = config.evaluation_rows, config.seed
    return Texts(
        calibration=reader.split(data.train, limit, count=config.calibration_rows, seed=seed),
        validation=reader.split(data.validation, limit, count=rows, seed=seed, parts=True),
        test=reader.split(data.test, limit, count=rows, seed=seed),
    )


def probe_texts(rows: Rows, processor: "TextProcessor", count: int, limit: int) -> list[str]:
    """Choose short, different texts that are not cut."""
    unique = list(dict.fromkeys(text for text in rows.texts if len(text) <= PROBE_CHARACTERS))
    whole = [
        text
        for text, ids in zip(unique, processor.encode(unique), strict=True)
        if len(ids) < limit - 2
    ]
    chosen: Sequence[str] = whole or rows.texts
    step = max(1, len(chosen) // count)
    return list(chosen[::step][:count])
