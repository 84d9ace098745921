"""Inputs of a quantization job: package, model and encoded texts, resolved and checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.sources.opening import load_task
from orchestrator.errors import InputError
from orchestrator.inference.heads import default_head, package_tasks
from orchestrator.quantization.backends.backend import Backend, make_backend
from orchestrator.quantization.calibrators.calibrator import Calibrator, make_calibrator
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.measures import Encoded, encode
from orchestrator.quantization.plans import Unit
from orchestrator.quantization.source import (
    Source,
    check_labels,
    choose_target,
    input_limit,
    read_source,
)
from orchestrator.zoo import Zoo

if TYPE_CHECKING:
    from orchestrator.quantization.emission.model import Emission
    from orchestrator.zoo import Package

PROBE_CHARACTERS: Final = 300
"""Longest text of a probe: probes are read by people too."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Encoded rows: to calibrate on, to choose by, and to confirm on."""

    calibration: Encoded
    validation: Encoded
    test: Encoded


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


@dataclass(frozen=True, slots=True)
class QuantizeInputs:
    """Everything that a measuring task needs, as plain values that travel to other processes."""

    source: Source
    """The float model; with ranges once it is calibrated."""
    target: str
    """Classification target whose accuracy counts."""
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
    target: str
    limit: int
    """Longest input in tokens."""
    emission: "Emission"
    """The float graph."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that plans choose kinds for."""
        return self.emission.units


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that is ready to be measured."""

    subject: Subject
    inputs: QuantizeInputs
    processor: TextProcessor
    task: TaskData
    """The labelled data."""
    probe: list[str]
    """Texts whose answers are stored with the package."""


def read_subject(config: QuantizeConfig) -> Subject:
    """Read the package, and find its target, its limits and its units.

    Raises:
        InputError: If it is quantized already, has no fitting target, or has no part that can be
            executed in INT8.
    """
    package = Zoo(config.run.zoo).get(config.package)
    if package.kind == "quantized":
        raise InputError(
            f"package: {package.ref} is quantized already; give the float package it was made from"
        )
    source = read_source(package.path)
    default = default_head(package, package_tasks(package))
    target = choose_target(source.model_config, config.target, default).name
    limit = input_limit(config, source.model_config, package)
    _check_lengths(config, limit, package)
    part = source.model_config.embedding.parts[0].type_name()
    if part != "word":
        raise InputError(
            f"package: {package.ref} reads its input by {part!r}, and this job measures answers to "
            "texts. Serve the package as it is"
        )
    emission = source.emit()
    if not emission.units:
        raise InputError(no_units(source.config["encoder"]["type"]))
    return Subject(package, source, target, limit, emission)


def no_units(encoder: str) -> str:
    """Say that an encoder has nothing to quantize, and which ones have."""
    return (
        f"encoder {encoder!r} has no part with an INT8 kernel on this runtime (GRU and RNN have "
        "none); transformer, gatedcnn and LSTM encoders have"
    )


def _check_lengths(config: QuantizeConfig, limit: int, package: "Package") -> None:
    """Require shorter lengths, and a manifest that can state the limit.

    Raises:
        InputError: A length is not shorter, or the package has no task.
    """
    if package.manifest.task is None and (config.lengths or config.max_length is not None):
        raise InputError(
            f"{package.ref} states no task, so it cannot state a limit either. Leave out "
            "max_length and lengths, or fine-tune the package first"
        )
    long = [length for length in config.lengths if length >= limit]
    if long:
        raise InputError(
            f"lengths: {', '.join(map(str, long))} is not shorter than the limit of {limit} "
            "tokens. Give shorter lengths, or leave them out"
        )


def prepare(config: QuantizeConfig) -> Prepared:
    """Read the package and the data, and require that they belong together.

    Raises:
        InputError: If they do not, or nothing in the package can be executed in INT8.
    """
    subject = read_subject(config)
    task = load_task(config.data, None if config.cache is None else Path(config.cache))
    stored = subject.package.manifest.task
    head = choose_target(subject.source.model_config, subject.target)
    check_labels(head, task, stored.labels if stored is not None else None)
    processor = TextProcessor.load(subject.package.path)
    timing = config.latency
    inputs = QuantizeInputs(
        source=subject.source,
        target=subject.target,
        texts=_encode_task(task, processor, config, subject.limit),
        cut={
            length: _encode_task(task, processor, config, length)
            for length in sorted(config.lengths, reverse=True)
        },
        timing=Timing(
            batch_size=timing.batch_size,
            length=min(timing.length or subject.limit, subject.limit),
            rounds=timing.rounds,
            calls=timing.calls,
        ),
        backend=make_backend(config.backend),
        calibrator=make_calibrator(config.calibrator),
    )
    probe = probe_texts(task.test, processor, config.probe_texts, subject.limit)
    return Prepared(subject, inputs, processor, task, probe)


def _encode_task(
    task: TaskData, processor: TextProcessor, config: QuantizeConfig, limit: int
) -> Texts:
    return Texts(
        calibration=encode_rows(task.train, processor, config.calibration_rows, config, limit),
        validation=encode_rows(task.validation, processor, config.evaluation_rows, config, limit),
        test=encode_rows(task.test, processor, config.evaluation_rows, config, limit),
    )


def encode_rows(
    rows: Rows, processor: TextProcessor, count: int, config: QuantizeConfig, limit: int
) -> Encoded:
    """Tokenize up to ``count`` rows, chosen by the job's seed, into batches of similar length."""
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(rows))[:count])
    rows = rows.take(chosen)
    lengths = np.asarray([len(text) for text in rows.texts])
    order = np.argsort(lengths, kind="stable")
    batches = []
    for start in range(0, len(order), config.batch_size):
        index = order[start : start + config.batch_size]
        texts = [rows.texts[i] for i in index]
        pairs = None if rows.pairs is None else [rows.pairs[i] for i in index]
        batches.append(processor.arrays(texts, pairs, limit))
    return encode(batches, order, rows.labels)


def probe_texts(rows: Rows, processor: TextProcessor, count: int, limit: int) -> list[str]:
    """Choose short, different texts that are not cut."""
    unique = list(dict.fromkeys(text for text in rows.texts if len(text) <= PROBE_CHARACTERS))
    whole = [
        text
        for text, ids in zip(unique, processor.encode(unique), strict=True)
        if len(ids) < limit - 2
    ]
    chosen = whole or rows.texts
    step = max(1, len(chosen) // count)
    return list(chosen[::step][:count])
