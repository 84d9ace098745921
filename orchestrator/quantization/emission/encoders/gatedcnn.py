"""The gated convolutional encoder as ONNX nodes; units are ``encoder.layers.N``.

Legend: B batch, S length, D width.
"""

from orchestrator.modeling.encoders.configs import GatedCnnConfig
from orchestrator.quantization.emission.convolution import convolve
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import FLOAT
from orchestrator.quantization.emission.weights import Weights


class GatedCnnEmitter:
    """Writes one gated convolutional encoder into a graph."""

    def __init__(self, graph: GraphBuilder, config: GatedCnnConfig, weights: Weights) -> None:
        self.graph = graph
        self.config = config
        self.weights = weights

    def emit(self, hidden: str, mask: str) -> str:
        """Encode hidden [B, S, D] under the int32 mask [B, S]; outputs at padding are zero."""
        real = self.graph.op("Cast", [mask], to=FLOAT)
        real = self.graph.op("Unsqueeze", [real, self.graph.shape(-1)])
        x = residual = self.graph.op("Mul", [hidden, real])
        for index in range(self.config.num_layers):
            x = self.graph.op("Mul", [self._gated_convolution(f"encoder.layers.{index}", x), real])
            late = self.config.residual_from == "first_layer"
            if late and index == 0:
                residual = x
            elif (index + (not late)) % self.config.block_size == 0:
                x = residual = self.graph.op("Add", [x, residual])
        return x

    def _gated_convolution(self, unit: str, x: str) -> str:
        size = self.config.kernel_size
        left = size - 1 if self.config.mask == "causal" else (size - 1) // 2
        kernel, around = self.weights.array(f"{unit}.weight"), (left, size - 1 - left)
        product = convolve(self.graph, unit, x, kernel, around=around)
        bias = self.graph.constant(f"{unit}.bias", self.weights.array(f"{unit}.bias"))
        biased = self.graph.op("Add", [product, bias])
        values, gates = self.graph.ops("Split", [biased], 2, axis=-1, num_outputs=2)
        return self.graph.op("Mul", [values, self.graph.op("Sigmoid", [gates])])
