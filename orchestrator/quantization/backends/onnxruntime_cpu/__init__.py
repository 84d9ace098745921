"""ONNX Runtime on CPUs: the back end that packages are measured and served with.

The runtime and ONNX are imported when they are used: settings load without them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.arrays import AnyArray
from orchestrator.quantization.backends.backend import Backend
from orchestrator.quantization.backends.hosts import EXACT_KINDS
from orchestrator.quantization.kinds import WIDE_KINDS
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.registries import BACKENDS, BackendConfig

if TYPE_CHECKING:
    from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
    from orchestrator.quantization.emission.model import Emission
    from orchestrator.quantization.results import Audit
    from orchestrator.quantization.source import Source


@BACKENDS.add
class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU kernels: MatMulIntegerToFloat, DynamicQuantizeMatMul and their LSTM."""

    class Config(BackendConfig):
        """ONNX Runtime, CPU execution provider."""

        type: Literal["onnxruntime_cpu"] = "onnxruntime_cpu"

    name = "onnxruntime"
    model_file = "model.onnx"
    kinds = (*EXACT_KINDS, *WIDE_KINDS)
    observes = True
    settings = frozenset({"calibrator", "equalize", "tables"})

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def emit(
        self, source: "Source", plan: Plan | None = None, *, observe: bool = False
    ) -> "Emission":
        """Write an ONNX graph."""
        return source.emit(plan, observe=observe)

    def load(self, folder: Path, *, threads: int = 1) -> "OnnxModel":
        """Open ``model.onnx`` of a package folder."""
        from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel

        return OnnxModel.load(folder, threads=threads)

    def open(self, model: bytes, *, batch_invariant: bool, threads: int = 1) -> "OnnxModel":
        """Open the content of ``model.onnx``."""
        from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel

        return OnnxModel.from_bytes(model, batch_invariant=batch_invariant, threads=threads)

    def audit(self, model: bytes, plan: Plan, sample: Mapping[str, AnyArray]) -> "Audit":
        """Execute the optimized graph once under the profiler, on a batch of its own."""
        from orchestrator.quantization.backends.onnxruntime_cpu.audit import audit, verify

        del sample
        found = audit(model)
        verify(found, plan)
        return found
