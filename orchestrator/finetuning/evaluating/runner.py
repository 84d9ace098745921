"""``orchestrator evaluate``: a package and labelled rows in, every metric with its interval out.

Needs no Ray. Everything that can be wrong is found before the run folder is made.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.config import JobResult
from orchestrator.config.tables import table
from orchestrator.data.processors.unknown import unknown_note, unknown_share
from orchestrator.errors import InputError
from orchestrator.finetuning.evaluating import report as parts
from orchestrator.finetuning.evaluating.config import EvaluateConfig
from orchestrator.finetuning.evaluating.results import EVALUATION_FILE, EvaluationReport
from orchestrator.finetuning.evaluating.rows import Asked, read_asked, rows_digest
from orchestrator.finetuning.zero_shot import zero_shot
from orchestrator.inference.predictor import Predictor
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.tasks.base import AnyTask
from orchestrator.tasks.measure import Measured, compare_all, measure
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import DataRecord, Difference, read_suite

if TYPE_CHECKING:
    from orchestrator.zoo import Package

STAGE: Final = "evaluate"
INPUTS: Final = "inputs"
"""Step of the run that records what was measured."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Subject:
    """A loaded package and the task to ask it."""

    package: "Package"
    predictor: Predictor
    task: AnyTask


@dataclass(frozen=True, eq=False)
class Prepared:
    """An evaluation that is ready to run."""

    subject: Subject
    other: Subject | None
    asked: Asked

    @property
    def identity(self) -> dict[str, str | None]:
        """Inputs of the figures, by content."""
        return {
            "package": self.subject.package.manifest_sha256,
            "compare": None if self.other is None else self.other.package.manifest_sha256,
            "rows": rows_digest(self.asked.rows),
        }


def run(config: EvaluateConfig) -> JobResult:
    """Evaluate a package and write the report into the run folder.

    The same command answers from its run folder while package and rows are the same.

    Raises:
        InputError: The package, its head or the data do not fit; nothing is written.
        IntegrityError: A package is damaged.
    """
    prepared = prepare(config)
    with RunFolder.open(config, STAGE) as folder:
        finished = folder.finished()
        if finished is not None and folder.done(INPUTS) == prepared.identity:
            return finished
        report = examined(config, prepared)
        atomic_write_json(folder.path / EVALUATION_FILE, report)
        folder.mark(INPUTS, dict(prepared.identity))
        result = JobResult(
            package=report.package,
            metrics={
                "head": report.task.head,
                "split": report.split,
                "rows": report.rows,
                "primary": report.primary,
                **{name: figure.value for name, figure in report.metrics.items()},
                **{f"{name}.drop": found.drop for name, found in report.differences.items()},
            },
            run_dir=str(folder.path),
        )
        folder.finish(result)
    logger.info("%s\n%s", report.package, summary(report))
    return result


def check(config: EvaluateConfig) -> str:
    """Describe the evaluation after reading the package and the rows."""
    prepared = prepare(config)
    task, asked = prepared.subject.task, prepared.asked
    other = "" if prepared.other is None else f", compared with {prepared.other.package.ref}"
    return (
        f"{prepared.subject.package.ref}: head {task.head!r} ({task.kind()}) on {len(asked.rows)} "
        f"rows ({asked.split}) of {config.data.source}{other}"
    )


def prepare(config: EvaluateConfig) -> Prepared:
    """Load the packages and read the rows.

    Raises:
        InputError: They do not fit one another.
    """
    zoo = Zoo(config.run.zoo)
    if config.task is None:
        subject = _subject(zoo, config, config.package, config.target)
    else:
        package = zoo.get(config.package)
        predictor = zero_shot(package, config)
        subject = Subject(package, predictor, predictor.task())
    other = None
    if config.compare is not None:
        other = _subject(zoo, config, config.compare, config.compare_target, subject.task.head)
        _require_comparable(subject, other)
    suite = read_suite(subject.package)
    exam = None if suite is None else suite.exams.get(subject.task.head)
    learned = None if exam is None else exam.data.spec.get("source")
    cache = None if config.cache is None else Path(config.cache)
    asked = read_asked(config.data, subject.task, config.split, learned_from=learned, cache=cache)
    return Prepared(subject, other, asked)


def examined(config: EvaluateConfig, prepared: Prepared) -> EvaluationReport:
    """Answer the rows, measure the answers, and compare."""
    subject, asked = prepared.subject, prepared.asked
    task, rows = subject.task, asked.rows
    answers = subject.predictor.answers(rows, task.head)
    measured = measure(task, rows, answers)
    metrics, undefined = parts.figures(measured)
    reader = subject.predictor.reader
    share = unknown_share(None if reader is None else reader.processor, rows)
    if (note := unknown_note(share)) is not None:
        logger.warning("%s: %s", config.data.source, note)
    return EvaluationReport(
        package=subject.package.ref,
        package_sha256=subject.package.manifest_sha256,
        task=task.spec,
        data=DataRecord(
            spec=config.data.model_dump(mode="json", exclude_defaults=True),
            fingerprints={asked.split: rows_digest(rows)},
            rows={asked.split: len(rows)},
        ),
        split=asked.split,
        rows=len(rows),
        rejected=asked.rejected,
        unknown_share=share,
        primary=task.primary.name,
        metrics=metrics,
        undefined=undefined,
        **dict(parts.report_answers(task, rows, answers, measured, config.worst_rows)),
        compared=None if prepared.other is None else prepared.other.package.ref,
        differences={} if prepared.other is None else _compared(prepared.other, asked, measured),
    )


def summary(report: EvaluationReport) -> str:
    """Return the metrics that are not of a single label as a table."""
    header: tuple[str, ...] = ("metric", "value", "95 % interval")
    of_labels = {f"{name}.{row.label}" for row in report.labels for name in _PER_LABEL}
    rows = [
        (name, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}", *_drop(report, name))
        for name, found in report.metrics.items()
        if name not in of_labels
    ]
    if report.compared is not None:
        header = (*header, f"better than {report.compared} by", "95 % interval")
    return table(rows, header)


_PER_LABEL: Final = ("precision", "recall", "f1")


def _drop(report: EvaluationReport, name: str) -> tuple[str, ...]:
    if report.compared is None:
        return ()
    found = report.differences.get(name)
    if found is None:
        return ("", "")
    return f"{-found.drop:+.4f}", f"{-found.high:+.4f} to {-found.low:+.4f}"


def _subject(
    zoo: Zoo, config: EvaluateConfig, ref: str, target: str | None, preferred: str | None = None
) -> Subject:
    package = zoo.get(ref)
    predictor = Predictor.open(
        package,
        target=target,
        threads=config.threads,
        device=config.device,
        max_length=config.max_length,
    )
    head = preferred if target is None and preferred in predictor.tasks else target
    return Subject(package, predictor, predictor.task(head))


def _require_comparable(subject: Subject, other: Subject) -> None:
    """Refuse to compare different tasks.

    Raises:
        InputError: Kind or labels differ.
    """
    ours, theirs = subject.task, other.task
    if (ours.kind(), ours.labels) != (theirs.kind(), theirs.labels):
        raise InputError(
            f"compare: {other.package.ref} (head {theirs.head!r}: {theirs.kind()}, labels "
            f"{list(theirs.labels)}) cannot be compared with {subject.package.ref} (head "
            f"{ours.head!r}: {ours.kind()}, labels {list(ours.labels)}). Kind, names and order of "
            "labels must be the same."
        )


def _compared(other: Subject, asked: Asked, measured: Measured) -> Mapping[str, Difference]:
    theirs = other.predictor.measure(asked.rows, other.task.head)
    return parts.differences(compare_all(theirs, measured))
