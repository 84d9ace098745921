"""Interface of back ends. Needs neither torch, Ray nor ONNX.

A new back end is one module (or folder) here, or an entry point ``backend.<type>`` of another
package, with a class like ``onnxruntime_cpu.OnnxRuntimeCpu``. Packages name it in ``plan.json``, by
which they are opened again.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import InputError
from orchestrator.quantization.backends.hosts import Host, this_host
from orchestrator.quantization.kinds import KindName, Range
from orchestrator.quantization.plans import Plan, PlanFile, Unit
from orchestrator.quantization.registries import BACKENDS, BackendConfig

if TYPE_CHECKING:
    from orchestrator.quantization.results import Audit
    from orchestrator.quantization.source import Source

DEFAULT: Final = "onnxruntime_cpu"
"""Back end of packages that can be a graph."""
MODULES: Final = "torch_cpu"
"""Back end of the others."""


class Predictor(Protocol):
    """Anything that answers a batch of token ids."""

    def predict(self, batch: Mapping[str, AnyArray]) -> dict[str, Float32Array]:
        """Return answers [B, K] or [B, S, K] by target name, and ``embedding`` [B, D].

        Args:
            batch: ``input_ids`` [B, S]; optional ``attention_mask`` and ``token_type_ids`` [B, S].
        """
        ...


class LoadedModel(Predictor, Protocol):
    """A model that a back end has opened."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the model."""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the heads that it answers with."""
        ...

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens; 0: it reads none."""
        ...

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads tokens and nothing else."""
        ...

    @property
    def batch_invariant(self) -> bool:
        """Whether the rows of a batch run in one call; otherwise they run one by one."""
        ...


class Written(Protocol):
    """A model in the form of a back end, not opened."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """The parts that plans choose kinds for."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that it answers with."""
        ...

    def to_bytes(self) -> bytes:
        """Return the content of the model file."""
        ...


class Backend(ABC):
    """Executes quantized models, and reports which operators it really executed.

    Args:
        config: Options of this back end.
    """

    Config: ClassVar[type[BackendConfig]]
    name: ClassVar[str]
    """Name of the runtime, as packages record it, and of the distribution that holds it."""
    model_file: ClassVar[str]
    """Name of the model file."""
    kinds: ClassVar[tuple[KindName, ...]]
    """INT8 kinds that it has, whatever the host."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of a job that act here: ``calibrator`` (calibrated kinds), ``equalize``,
    ``tables``."""
    observes: ClassVar[bool] = False
    """Whether it opens the single products of ``prices.sensitivity``."""
    exact_batches: ClassVar[bool] = True
    """Whether float operators give a row the same bits in every batch."""

    def __init__(self, config: BackendConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the runtime.

        Raises:
            InputError: It is not installed.
        """

    @property
    def host(self) -> Host:
        """Fingerprint of this machine with the runtime."""
        return this_host(self.name)

    def plan_file(self, plan: Plan, ranges: Mapping[str, Range] | None = None) -> PlanFile:
        """Return the content of ``plan.json``.

        Args:
            plan: Kind of every unit.
            ranges: Calibrated ranges.
        """
        return plan.to_file(ranges, self.host).model_copy(
            update={
                "backend": self.config.type_name(),
                "batch_invariant": plan.batch_invariant and self.exact_batches,
            }
        )

    @abstractmethod
    def emit(self, source: "Source", plan: Plan | None = None, *, observe: bool = False) -> Written:
        """Write a float model in the form of this back end.

        Args:
            source: Config and parameters.
            plan: Kind of every unit; None: float.
            observe: Also return the input of every unit for ``calibrator`` and ``equalize``.

        Raises:
            InputError: If the model has no such form, or a parameter is missing or not finite.
        """

    @abstractmethod
    def load(self, folder: Path, *, threads: int = 1) -> LoadedModel:
        """Open the model of a package folder.

        Args:
            folder: A quantized package.
            threads: Threads within one call.

        Raises:
            InputError: If the folder holds no model of this back end.
            IntegrityError: If the runtime cannot execute it.
        """

    @abstractmethod
    def open(self, model: bytes, *, batch_invariant: bool, threads: int = 1) -> LoadedModel:
        """Open a model that is in memory.

        Args:
            model: Content of the model file.
            batch_invariant: Whether a batch may run in one call (``Plan.batch_invariant``).
            threads: Threads within one call.

        Raises:
            IntegrityError: If the runtime cannot execute it.
        """

    @abstractmethod
    def audit(self, model: bytes, plan: Plan, sample: Mapping[str, AnyArray]) -> "Audit":
        """Execute a model once and read off what ran.

        Args:
            model: Content of the model file.
            plan: What it must execute.
            sample: A batch that it reads.

        Raises:
            StageError: If what ran is not exactly the plan.
        """


def make_backend(config: BackendConfig) -> Backend:
    """Build the back end that a config describes."""
    found: Backend = BACKENDS.component_class(config.type_name())(config)
    return found


def named_backend(name: str) -> Backend:
    """Build a back end with its default options.

    Args:
        name: As ``plan.json`` has it.

    Raises:
        InputError: No installed package has it.
    """
    if name not in BACKENDS.names():
        raise InputError(
            f"the package runs on the back end {name!r}, which is not installed; there are "
            f"{', '.join(BACKENDS.names())}. Install the distribution that adds it"
        )
    return make_backend(BACKENDS.config_class(name)())


def backend_of(folder: Path) -> Backend:
    """Return the back end that a package folder was written for.

    Raises:
        InputError: Its plan is not readable, or the back end is not installed.
    """
    plan = PlanFile.read(folder)
    return named_backend(DEFAULT if plan is None else plan.backend)


def default_backend() -> Backend:
    """Return the back end of packages that can be a graph."""
    return named_backend(DEFAULT)
