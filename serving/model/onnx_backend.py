"""Packages with ``model.onnx``: quantized ones. Needs NumPy and ONNX Runtime only."""

from pathlib import Path

import numpy as np

from orchestrator.quantization.backends.onnxruntime_cpu.session import (
    EMBEDDING,
    OnnxModel,
    is_quantized,
)
from serving.model.batching import Operation, Outputs


class OnnxBackend:
    """An ONNX Runtime session.

    Args:
        folder: package folder.
        threads: threads within one run.

    Raises:
        IntegrityError: the model cannot be executed.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, threads: int) -> None:
        self._model = OnnxModel.load(folder, threads=threads)
        shapes = {value.name: value.shape for value in self._model.session.get_outputs()}
        self.targets = {name: int(shapes[f"logits.{name}"][1]) for name in self._model.targets}
        self.embedding_size = int(shapes[EMBEDDING][1])
        self.max_length = self._model.max_length
        self.dtype = "int8" if is_quantized(folder) else "float32"

    def run(self, batch: dict[str, np.ndarray], operation: Operation) -> Outputs:
        """Run the graph, which computes logits and embeddings at once."""
        outputs = self._model.predict(batch)
        wanted = self.targets if operation == "predict" else (EMBEDDING,)
        return {name: outputs[name] for name in wanted}
