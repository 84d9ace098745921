"""Norms and activations as ONNX nodes, fused with the bias and residual before them.

Legend: B batch, S length, D width, N outputs of a GEMM.
"""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.arrays import Float32Array
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.weights import Weights

QUICK_GELU_SLOPE = 1.702
SILU_SLOPE = 1.0
"""QuickGelu is ``x * sigmoid(slope * x)``, which is SiLU at slope 1."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A LayerNorm or RMSNorm of the model, by the name of its module."""

    graph: GraphBuilder
    weights: Weights
    kind: str
    eps: float

    def plain(self, layer: str, x: str) -> str:
        """Normalize x [B, S, D]."""
        op = "SimplifiedLayerNormalization" if self.kind == "rms" else "LayerNormalization"
        return self.graph.op(op, [x, *self._parameters(layer)], axis=-1, epsilon=self.eps)

    def of_sum(
        self, layer: str, y: str, residual: str, bias: Float32Array | None
    ) -> tuple[str, str]:
        """Normalize ``y + bias + residual``; y [B, S, D] is a GEMM's product without its bias.

        Returns:
            The normalized sum and the sum itself (the residual stream of pre-norm blocks).
        """
        op = "SkipSimplifiedLayerNormalization" if self.kind == "rms" else "SkipLayerNormalization"
        inputs = [y, residual, *self._parameters(layer)]
        if bias is not None:
            inputs.append(self.graph.constant(f"{layer}.bias_before", bias))
        outputs = self.graph.ops(op, inputs, 4, domain=MICROSOFT, epsilon=self.eps)
        return outputs[0], outputs[3]

    def _parameters(self, layer: str) -> list[str]:
        names = [f"{layer}.weight"] if self.kind == "rms" else [f"{layer}.weight", f"{layer}.bias"]
        return [self.graph.constant(name, self.weights.array(name)) for name in names]


def activate(
    graph: GraphBuilder, name: str, product: str, bias: tuple[str, Float32Array] | None
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


_FUSED = {"gelu": "BiasGelu", "gelu_tanh": "FastGelu"}
_PLAIN = {"gelu": "Gelu", "gelu_tanh": "FastGelu"}
_SEPARATE: dict[str, Callable[[GraphBuilder, str], str]] = {
    "relu": lambda graph, x: graph.op("Relu", [x]),
    "silu": lambda graph, x: graph.op("QuickGelu", [x], domain=MICROSOFT, alpha=SILU_SLOPE),
    "quick_gelu": lambda graph, x: graph.op(
        "QuickGelu", [x], domain=MICROSOFT, alpha=QUICK_GELU_SLOPE
    ),
}
