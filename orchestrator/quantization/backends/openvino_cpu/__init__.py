"""OpenVINO on CPUs, an optional extra: the emitted float graph with the INT8 units of a plan.

OpenVINO does not read the integer operators that ONNX Runtime has, so its own pattern is written: a
FakeQuantize with the calibrated range before each unit, and an s8 weight with one scale per output.
Its compiler turns both into one FullyConnected of u8 and s8; the audit reads that off.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.arrays import AnyArray
from orchestrator.errors import InputError
from orchestrator.quantization.backends.backend import Backend
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.registries import BACKENDS, BackendConfig

if TYPE_CHECKING:
    from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
    from orchestrator.quantization.backends.openvino_cpu.intermediate import OpenVinoFile
    from orchestrator.quantization.results import Audit
    from orchestrator.quantization.source import Source

MODEL_FILE = "model-openvino.safetensors"
MISSING = "the back end openvino_cpu needs OpenVINO: pip install 'ray-model-orchestrator[openvino]'"


@BACKENDS.add
class OpenVinoCpu(Backend):
    """OpenVINO's CPU plugin."""

    class Config(BackendConfig):
        """OpenVINO, static INT8 on CPUs; an optional extra."""

        type: Literal["openvino_cpu"] = "openvino_cpu"

    name = "openvino"
    model_file = MODEL_FILE
    kinds = ("static_s7", "static_s8")
    settings = frozenset({"calibrator"})
    exact_batches = False

    @property
    def version(self) -> str:
        """Version of OpenVINO."""
        try:
            import openvino
        except ImportError:
            raise InputError(MISSING) from None
        return str(openvino.__version__)

    def emit(
        self, source: "Source", plan: Plan | None = None, *, observe: bool = False
    ) -> "OpenVinoFile":
        """Write OpenVINO's intermediate representation."""
        _ = self.version
        from orchestrator.quantization.backends.openvino_cpu.intermediate import write_file

        return write_file(source, plan or Plan({}), observe=observe)

    def load(self, folder: Path, *, threads: int = 1) -> "OnnxModel":
        """Open the model file of a package folder."""
        path = folder / MODEL_FILE
        if not path.is_file():
            raise InputError(
                f"{folder} has no {MODEL_FILE}: give the folder of a quantized package"
            )
        return self.open(path.read_bytes(), batch_invariant=True, threads=threads)

    def open(self, model: bytes, *, batch_invariant: bool, threads: int = 1) -> "OnnxModel":
        """Compile the content of a model file."""
        _ = self.version
        from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
        from orchestrator.quantization.backends.openvino_cpu.compiled import CompiledSession

        return OnnxModel(CompiledSession(model, threads), batch_invariant=batch_invariant)

    def audit(self, model: bytes, plan: Plan, sample: Mapping[str, AnyArray]) -> "Audit":
        """Read the precision of every unit off the compiled model, which is what executes."""
        from orchestrator.quantization.backends.openvino_cpu.compiled import audit

        del sample
        return audit(model, plan)
