"""PyTorch on CPUs, module by module: the back end of packages that cannot be a graph.

Each linear layer of a plan runs torch's oneDNN kernel of u8 activations and s8 weights
(``onednn.qlinear_pointwise``, the one that torch.compile and torchao use); everything else is the
package's own model. ``torch.ao.quantization`` and tensors of dtype qint8 are deprecated in torch
2.13 and are not used. Torch is imported when it is used: settings load without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.arrays import AnyArray
from orchestrator.quantization.backends.backend import Backend
from orchestrator.quantization.backends.torch_cpu.files import MODEL_FILE, TorchFile, read_file
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.registries import BACKENDS, BackendConfig

if TYPE_CHECKING:
    from orchestrator.quantization.backends.torch_cpu.model import PlannedModel
    from orchestrator.quantization.results import Audit
    from orchestrator.quantization.source import Source


@BACKENDS.add
class TorchCpu(Backend):
    """Torch's INT8 kernels of oneDNN, in the linear layers of a plan."""

    class Config(BackendConfig):
        """PyTorch, linear layers in INT8 one by one."""

        type: Literal["torch_cpu"] = "torch_cpu"

    name = "torch"
    model_file = MODEL_FILE
    kinds = ("row_s7", "row_s8")
    exact_batches = False

    @property
    def version(self) -> str:
        """Version of torch."""
        import torch

        return str(torch.__version__)

    def emit(
        self, source: "Source", plan: Plan | None = None, *, observe: bool = False
    ) -> TorchFile:
        """Quantize the weights of a plan."""
        from orchestrator.quantization.backends.torch_cpu.writing import write_file

        assert not observe  # see observes
        return write_file(source, plan or Plan({}))

    def load(self, folder: Path, *, threads: int = 1) -> "PlannedModel":
        """Open the model file of a package folder."""
        return self.open(read_file(folder), batch_invariant=True, threads=threads)

    def open(self, model: bytes, *, batch_invariant: bool, threads: int = 1) -> "PlannedModel":
        """Open the content of a model file; every kind has one range per row."""
        from orchestrator.quantization.backends.torch_cpu.model import PlannedModel

        del batch_invariant
        return PlannedModel(model, threads=threads)

    def audit(self, model: bytes, plan: Plan, sample: Mapping[str, AnyArray]) -> "Audit":
        """Execute the model once, and record the operators that torch dispatched in each unit."""
        from orchestrator.quantization.backends.torch_cpu.executed import audit, verify

        found = audit(model, sample)
        verify(found, plan)
        return found
