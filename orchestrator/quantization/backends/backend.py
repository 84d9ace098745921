"""Interface of back ends. Needs neither torch, Ray nor ONNX.

A new back end is one module (or folder) here, or an entry point ``backend.<type>`` of another
package, with a class like ``onnxruntime_cpu.OnnxRuntimeCpu``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.registries import BACKENDS, BackendConfig

if TYPE_CHECKING:
    from orchestrator.quantization.results import Audit


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
        """Names of the outputs of the graph."""
        ...


class Backend(ABC):
    """Executes quantized models, and reports which operators it really executed.

    Args:
        config: Options of this back end.
    """

    Config: ClassVar[type[BackendConfig]]
    name: ClassVar[str]
    """Name of the runtime, as packages record it."""

    def __init__(self, config: BackendConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the runtime."""

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
    def audit(self, model: bytes, plan: Plan) -> "Audit":
        """Execute a model once and read off what ran.

        Raises:
            StageError: If that is not exactly the plan.
        """


def make_backend(config: BackendConfig) -> Backend:
    """Build the back end that a config describes."""
    found: Backend = BACKENDS.component_class(config.type_name())(config)
    return found
