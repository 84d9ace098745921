"""Norms and activations as ONNX nodes, fused with the bias and the residual before them.

Legend: B batch, S length, D width, N outputs of a GEMM.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.quantization.emission.equalization import RESIDUAL_SCALE
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.weights import Weights

FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
"""Element types of ONNX."""
QUICK_GELU_SLOPE: Final = 1.702
SILU_SLOPE: Final = 1.0
"""QuickGelu is ``x * sigmoid(slope * x)``, which is SiLU at slope 1."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A LayerNorm or RMSNorm of the model, by the name of its module."""

    graph: GraphBuilder
    weights: Weights
    kind: str
    eps: float

    def plain(self, layer: str, x: str) -> str:
        """Normalize the last axis of x."""
        op = "LayerNormalization" if self.kind == "layernorm" else "SimplifiedLayerNormalization"
        return self.graph.op(op, [x, *self._parameters(layer)], axis=-1, epsilon=self.eps)

    def of_sum(self, layer: str, y: str, residual: str, bias: Float32Array | None) -> str:
        """Normalize ``y + bias + residual``; y [B, S, D] is a GEMM's product without its bias."""
        return self.with_sum(layer, y, residual, bias)[0]

    def with_sum(
        self, layer: str, y: str, residual: str, bias: Float32Array | None
    ) -> tuple[str, str]:
        """Return also the sum itself, the residual stream of pre-norm blocks.

        ONNX Runtime 1.32 executes ``Sum`` and the norm four times as fast as its fused node, to
        which it turns two ``Add``.
        """
        parts = [y, self.graph.residual(residual)]
        if bias is not None:
            parts.append(self.graph.constant(f"{layer}.bias_before", bias))
        total = self.graph.op("Sum", parts)
        normed = self.plain(layer, total)
        mark_residual(self.graph, self.weights, layer, normed)
        return normed, total

    def _parameters(self, layer: str) -> list[str]:
        factors = self.weights.array(f"{layer}.weight")
        if self.kind == "rms_offset":
            factors = np.asarray(1.0 + factors, np.float32)
        names = [self.graph.constant(f"{layer}.weight", factors)]
        shift = self.weights.bias(layer)
        return names if shift is None else [*names, self.graph.constant(f"{layer}.bias", shift)]


def mark_residual(graph: GraphBuilder, weights: Weights, layer: str, normed: str) -> None:
    """Note the scale of a norm's output as a residual, if the norm is equalized."""
    name = f"{layer}.{RESIDUAL_SCALE}"
    if weights.has(name):
        graph.scale_residual(normed, layer, weights.array(name))


def activate(
    graph: GraphBuilder, name: str, product: str, bias: tuple[str, Float32Array] | None = None
) -> str:
    """Apply an activation to ``product + bias``.

    Args:
        graph: The graph to write into.
        name: One of modeling's ``Activation`` names.
        product: A GEMM's product [..., N].
        bias: Name and values [N] of its bias.
    """
    constant = None if bias is None else graph.constant(*bias)
    if name in _FUSED:
        op = _FUSED[name] if constant else _PLAIN[name]
        return graph.op(op, [product, constant] if constant else [product], domain=MICROSOFT)
    biased = graph.op("Add", [product, constant]) if constant else product
    return _SEPARATE[name](graph, biased)


def with_bias(graph: GraphBuilder, product: str, bias: tuple[str, Float32Array | None]) -> str:
    """Add a bias [N], given with its name; None: there is none."""
    name, values = bias
    return product if values is None else graph.op("Add", [product, graph.constant(name, values)])


_FUSED = {"gelu": "BiasGelu", "gelu_tanh": "FastGelu"}
_PLAIN = {"gelu": "Gelu", "gelu_tanh": "FastGelu"}
_SEPARATE: dict[str, Callable[[GraphBuilder, str], str]] = {
    "relu": lambda graph, x: graph.op("Relu", [x]),
    "tanh": lambda graph, x: graph.op("Tanh", [x]),
    "silu": lambda graph, x: graph.op("QuickGelu", [x], domain=MICROSOFT, alpha=SILU_SLOPE),
    "quick_gelu": lambda graph, x: graph.op(
        "QuickGelu", [x], domain=MICROSOFT, alpha=QUICK_GELU_SLOPE
    ),
}
