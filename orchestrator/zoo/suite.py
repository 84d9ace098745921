"""The evaluation suite: every labelled task that a package answers for, and how well.

``evaluation/suite.json`` is written by every stage that makes a package. It holds, per task, what
is needed to repeat the exam (kind, head, label names in order, fingerprints of the data, optionally
the test rows) and what the exam gave: every metric with its interval and, for a child, its parent's
value with the paired difference. A task that could not be measured is listed as ``unverified`` with
the reason; it is never left out.
"""

from collections.abc import Iterable
from math import nan
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from orchestrator.config import StrictModel, collect_problems
from orchestrator.errors import IntegrityError, Problem
from orchestrator.storage.files import unsafe_reason

if TYPE_CHECKING:
    from orchestrator.zoo.package import Package

SUITE_FILE = "evaluation/suite.json"
"""Path of the suite in a package."""

ROWS_FOLDER = "evaluation/suite"
"""Folder of the test rows, one Parquet file per task; never exported."""

EXEMPLARS_FOLDER = "state/exemplars"
"""Folder of training rows for later stages, one Parquet file per task; never exported."""


class SuiteConfig(StrictModel):
    """Rows that a package keeps, so that its exam can be repeated and its tasks be protected."""

    keep_rows: int = Field(1000, ge=0)
    """Largest number of test rows that the package keeps per task; 0: none."""
    exemplars: int = Field(256, ge=0)
    """Largest number of training rows that the package keeps per task; 0: none."""
    protect: bool = True
    """Keep how important each weight is for the tasks (as large as the weights), so that a later
    stream protects them without their data; only stages that train measure it."""


OF_SLICE = "@"
"""Between the name of a metric and that of a slice of the rows: ``accuracy@german``."""

Status = Literal["measured", "unverified"]

Number = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]
"""A number that may be undefined: NaN, which is null in JSON."""


class TaskSpec(StrictModel):
    """A task as a package stores it, next to the head that answers it."""

    kind: str
    """Name of the task kind."""
    head: str
    """Name of the head that answers it."""
    labels: tuple[str, ...] = ()
    """Label names in the order of the head's outputs; empty where answers are not labels."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the kind, without ``type``."""


class Figure(StrictModel):
    """One metric with its 95 % interval."""

    value: Number
    """The metric; NaN where it is undefined on these rows."""
    low: Number
    """Lower end of the interval."""
    high: Number
    """Upper end of the interval."""

    model_config = ConfigDict(allow_inf_nan=True)


class Difference(StrictModel):
    """A child against its parent on the same rows, one metric."""

    parent: Number
    """The parent's value."""
    drop: Number
    """Loss of the child against its parent; negative: the child is better."""
    low: Number
    """Lower end of the 95 % interval of the drop."""
    high: Number
    """Upper end."""
    bound: Number
    """One-sided 95 % upper bound of the drop, which a gate holds."""
    lost: int
    """Rows on which the child is worse."""
    gained: int
    """Rows on which it is better."""
    p_value: float
    """McNemar's exact test of lost against gained."""

    model_config = ConfigDict(allow_inf_nan=True)


class DataRecord(StrictModel):
    """Origin of the rows of a task."""

    spec: dict[str, Any] = Field(default_factory=dict)
    """The data set as the job named it."""
    fingerprints: dict[str, str] = Field(default_factory=dict)
    """SHA-256 over the rows of each split."""
    rows: dict[str, int] = Field(default_factory=dict)
    """Number of rows of each split."""


class Exam(StrictModel):
    """One task of the suite."""

    task: TaskSpec
    """The task: kind, labels and inputs."""
    data: DataRecord = DataRecord()
    """Data that it was trained and tested on."""
    status: Status
    """Whether this package was measured on it."""
    reason: str | None = None
    """Reason why it is unverified."""
    rows: int = 0
    """Test rows that were answered."""
    rows_file: str | None = None
    """File of the kept test rows in the package; null: none are kept."""
    primary: str
    """The metric that decides."""
    metrics: dict[str, Figure] = Field(default_factory=dict)
    """Every metric."""
    parent: str | None = None
    """Reference of the package that ``differences`` compare with."""
    differences: dict[str, Difference] = Field(default_factory=dict)
    """Paired differences to the parent, by metric."""

    def problems(self) -> Iterable[Problem]:
        """A measured task has its primary metric; an unverified one says why."""
        if self.status == "measured" and self.primary not in self.metrics:
            yield Problem("metrics", f"lacks the primary metric {self.primary!r}.")
        if self.status == "unverified" and not self.reason:
            yield Problem("reason", "is missing: an unverified task says why.")
        name = self.rows_file
        if name is not None and (unsafe_reason(name) or not name.startswith(f"{ROWS_FOLDER}/")):
            yield Problem("rows_file", f"{name!r} is not a file in {ROWS_FOLDER}.")


class Suite(StrictModel):
    """Every labelled task that a package answers for."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    default: str | None = None
    """Head that answers where none is named: the one that the package was made for."""
    exams: dict[str, Exam] = Field(default_factory=dict)
    """The tasks by the name of their head."""
    notes: tuple[str, ...] = ()
    """Tasks that the gate had to allow, or to judge by the mean."""

    def problems(self) -> Iterable[Problem]:
        """Tasks are listed under their heads."""
        for name, exam in self.exams.items():
            if name != exam.task.head:
                yield Problem(f"exams.{name}.task.head", f"is {exam.task.head!r}, not {name!r}.")


def read_suite(package: "Package") -> Suite | None:
    """Return the suite of a package; None: it answers for no labelled task.

    Raises:
        IntegrityError: The file is damaged, of a newer layout, or contradicts itself.
    """
    if not package.has(SUITE_FILE):
        return None
    suite = package.read_model(SUITE_FILE, Suite)
    if wrong := collect_problems(suite):
        where = f"{package.location}/{SUITE_FILE}"
        raise IntegrityError(f"{where} contradicts itself: {'; '.join(map(str, wrong))}")
    return suite
