"""The gated convolutional encoder as ONNX nodes.

A convolution over time is the GEMM of its windows: k shifted slices side by side [B, S, k D] times
[k D, 2 D]. So it is an ordinary unit, ``encoder.layers.N``, and has every kind.

Legend: B batch, S length, D width, k kernel size.
"""

from typing import Final

import numpy as np

from orchestrator.modeling.encoders.configs import GatedCnnConfig
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.weights import Weights

TO_THE_END: Final = 2**62
"""End of an ONNX Slice beyond every length."""


class GatedCnnEmitter:
    """Writes one gated convolutional encoder into a graph."""

    def __init__(self, graph: GraphBuilder, config: GatedCnnConfig, weights: Weights) -> None:
        self.graph = graph
        self.config = config
        self.weights = weights

    def emit(self, hidden: str, mask: str) -> str:
        """Encode hidden [B, S, D] under the int32 mask [B, S]; outputs at padding are zero."""
        real = self.graph.op("Cast", [mask], to=1)
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
        kernel = self.weights.array(f"{unit}.weight")
        weight = np.ascontiguousarray(kernel.transpose(2, 1, 0).reshape(-1, kernel.shape[0]))
        product = self.graph.gemm(unit, self._windows(x), weight)
        bias = self.graph.constant(f"{unit}.bias", self.weights.array(f"{unit}.bias"))
        biased = self.graph.op("Add", [product, bias])
        values, gates = self.graph.ops("Split", [biased], 2, axis=-1, num_outputs=2)
        return self.graph.op("Mul", [values, self.graph.op("Sigmoid", [gates])])

    def _windows(self, x: str) -> str:
        """Put the k positions that each output reads side by side: [B, S, D] to [B, S, k D]."""
        size = self.config.kernel_size
        if size == 1:
            return x
        left = size - 1 if self.config.mask == "causal" else (size - 1) // 2
        margins = self.graph.shape(0, left, 0, 0, size - 1 - left, 0)
        padded = self.graph.op("Pad", [x, margins])
        slices = [self._slice(padded, start, start - size + 1) for start in range(size)]
        return self.graph.op("Concat", slices, axis=-1)

    def _slice(self, x: str, start: int, end: int) -> str:
        ends = self.graph.shape(end if end < 0 else TO_THE_END)
        return self.graph.op("Slice", [x, self.graph.shape(start), ends, self.graph.shape(1)])
