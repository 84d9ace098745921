"""Compression of trained packages, as a hook: one stage asks for it, another one provides it.

Stages never import one another. A stage whose objective is the compressed model names a compressor
in its config; the stage that can compress registers one in `COMPRESSORS`. Other packages add theirs
through entry points ``compressor.<type>``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from orchestrator.config import ClusterSection, StrictModel
from orchestrator.config.registry import EntryConfig, Registry

if TYPE_CHECKING:
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.zoo import Package

Result = TypeVar("Result")
Value = TypeVar("Value")


class Pool(Protocol):
    """Runs functions in other processes; ``cluster.tasks.TaskPool`` is the one on Ray."""

    def put(self, value: Value) -> Value:
        """Store a value that many calls read."""
        ...

    def map(
        self,
        function: Callable[..., Result],
        items: Mapping[str, Sequence[Any]],
        title: str = "",
        unit: str = "call",
    ) -> Iterator[tuple[str, Result]]:
        """Yield (name, result) as calls end."""
        ...

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one call while nothing else of this pool runs."""
        ...


class Miss(StrictModel):
    """A limit that a compressed model does not keep."""

    limit: str
    """Name of the limit, with its unit."""
    value: float
    """Measured value."""
    allowed: float
    """Largest value that is allowed."""

    @property
    def excess(self) -> float:
        """Distance of the value from the limit, relative to it; absolute for a limit of 0."""
        return (self.value - self.allowed) / (self.allowed or 1.0)

    def in_words(self) -> str:
        """One phrase for messages."""
        over = self.value - self.allowed
        return f"{self.limit} is {self.value:.4g}, {self.allowed:g} is allowed ({over:.2g} more)"


@dataclass(frozen=True)
class CompressionJob:
    """A full search for the compressed form of one trained model.

    Attributes:
        name: Of the model, as a folder name; the search continues under it.
        source: Folder with the files of its package.
        task: Task of its manifest: ``kind``, ``modality``, ``labels``, ``max_length``.
        data: Labelled rows: training rows calibrate, validation rows choose; test rows never do.
        head: Head whose accuracy counts.
        seed: Of the run.
        cluster: Resources of the measurements.
        work: Folder for what only an unfinished search needs.
        max_accuracy_drop: Largest drop of accuracy; None: no limit.
        max_latency_ms: Longest time of a call; None: no limit.
        accept: Measures the files of a compressed package by the limits of the caller; it returns
            those that are not kept.
    """

    name: str
    source: Path
    task: Mapping[str, Any]
    data: "DatasetSpec"
    head: str
    seed: int
    cluster: ClusterSection
    work: Path
    max_accuracy_drop: float | None
    max_latency_ms: float | None
    accept: Callable[[Path], Sequence[Miss]]


class CompressorConfig(EntryConfig):
    """A compressor has no options: a config names it."""


class Compressor(ABC):
    """One kind of compression; nests a `CompressorConfig` or is named by one."""

    Config: ClassVar[type[CompressorConfig]]

    @abstractmethod
    def refusal(self, config: "ModelConfig") -> str | None:
        """Return why a model cannot be compressed, from its config alone; None: it can."""

    @abstractmethod
    def quick_forms(self, source: Path, folder: Path) -> Iterator[Path]:
        """Write compressed forms without any search, for a cheap check.

        The strongest compression comes first, then gentler ones; a caller stops at one that is good
        enough. Each form is there until the next one is asked for.

        Args:
            source: Files of a trained package.
            folder: Empty folder.

        Yields:
            The folder with the files of a package.

        Raises:
            InputError: The model cannot be compressed.
        """

    @abstractmethod
    def search(self, job: CompressionJob, pool: Pool, folder: Path) -> list[Miss]:
        """Search the best form that keeps the limits, and write the files of its package.

        Args:
            job: The search; started again, it measures only what is missing.
            pool: Runs the measurements.
            folder: Empty folder; stays so if no form keeps the limits.

        Returns:
            The limits that the nearest form does not keep; empty: the files are written.

        Raises:
            InputError: The model cannot be compressed.
        """

    @abstractmethod
    def publish(self, folder: Path, draft: Path, parent: "Package") -> None:
        """Copy what `search` wrote into a draft whose parent is now known."""


COMPRESSORS: Registry[CompressorConfig] = Registry(
    "compressor", CompressorConfig, builtin="orchestrator.quantization.registries"
)


def compressor_of(name: str) -> Compressor:
    """Build the compressor of a name.

    Raises:
        InputError: There is none.
    """
    found: Compressor = COMPRESSORS.component_class(name)()
    return found
