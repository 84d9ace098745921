"""The transformer encoder as ONNX nodes: post- and pre-norm, both masks, dense and gated.

Units of layer N: ``encoder.layers.N.attention.qkv`` (the three projections side by side),
``.attention.output``, ``.feed_forward.up``, ``.feed_forward.gate`` (gated only) and
``.feed_forward.down``. Norms and activations are fused with the bias and residual before them.

Legend: B batch, S length, D width, H heads, d head size, N outputs of a GEMM.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.layers.block_options import RotaryConfig
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.weights import Weights

FINAL_NORM = "encoder.norm"
QUICK_GELU_SLOPE = 1.702
SILU_SLOPE = 1.0
"""QuickGelu is ``x * sigmoid(slope * x)``, which is SiLU at slope 1."""


class TransformerEmitter:
    """Writes one transformer encoder into a graph."""

    def __init__(
        self,
        graph: GraphBuilder,
        config: TransformerConfig,
        dimensions: Dimensions,
        weights: Weights,
    ) -> None:
        self.graph = graph
        self.config = config
        self.dimensions = dimensions
        self.weights = weights
        self.norm = Norm(graph, weights, config.norm, config.norm_eps)
        self.head_size = config.size_of_head(dimensions)

    def emit(self, hidden: str, mask: str) -> str:
        """Encode hidden [B, S, D] under the int32 mask [B, S]."""
        if self.config.norm_position == "post":
            return self._emit_post(hidden, mask)
        return self._emit_pre(hidden, mask)

    def _emit_post(self, x: str, mask: str) -> str:
        for index in range(self.config.num_layers):
            layer = f"encoder.layers.{index}"
            product, bias = self._attention(f"{layer}.attention", x, mask)
            x, _ = self.norm.of_sum(f"{layer}.norm1", product, x, bias)
            product, bias = self._feed_forward(f"{layer}.feed_forward", x)
            x, _ = self.norm.of_sum(f"{layer}.norm2", product, x, bias)
        return x

    def _emit_pre(self, stream: str, mask: str) -> str:
        """Pre-norm: each fused norm also returns the sum before it, the residual stream."""
        normed = self.norm.plain("encoder.layers.0.norm1", stream)
        last = self.config.num_layers - 1
        for index in range(self.config.num_layers):
            layer = f"encoder.layers.{index}"
            product, bias = self._attention(f"{layer}.attention", normed, mask)
            normed, stream = self.norm.of_sum(f"{layer}.norm2", product, stream, bias)
            product, bias = self._feed_forward(f"{layer}.feed_forward", normed)
            following = FINAL_NORM if index == last else f"encoder.layers.{index + 1}.norm1"
            normed, stream = self.norm.of_sum(following, product, stream, bias)
        return normed

    def _attention(self, layer: str, x: str, mask: str) -> tuple[str, Float32Array | None]:
        """Return the output projection's product [B, S, D], and the bias still to be added."""
        weight, bias = self._joined_projection(layer)
        projected = self.graph.gemm(f"{layer}.qkv", x, weight)
        constant = "" if bias is None else self.graph.constant(f"{layer}.qkv.bias", bias)
        if self.config.rotary is not None and constant:
            projected, constant = self.graph.op("Add", [projected, constant]), ""
        query, key, value = self.graph.ops("Split", [projected], 3, axis=-1, num_outputs=3)
        if self.config.rotary is not None:
            query, key = (self._rotate(self.config.rotary, part) for part in (query, key))
        mixed = self.graph.op(
            "MultiHeadAttention",
            [query, key, value, constant, mask],
            domain=MICROSOFT,
            num_heads=self.config.num_heads,
            unidirectional=int(self.config.mask == "causal"),
        )
        output = self.graph.gemm(f"{layer}.output", mixed, self.weights.matrix(f"{layer}.output"))
        return output, self.weights.bias(f"{layer}.output")

    def _feed_forward(self, layer: str, x: str) -> tuple[str, Float32Array | None]:
        """Return the down projection's product [B, S, D], and the bias still to be added."""
        up = self.graph.gemm(f"{layer}.up", x, self.weights.matrix(f"{layer}.up"))
        bias = self.weights.bias(f"{layer}.up")
        named = None if bias is None else (f"{layer}.up.bias", bias)
        if self.config.feed_forward == "dense":
            inner = activate(self.graph, self.config.activation, up, named)
        else:
            inner = self._gated(layer, x, up, named)
        down = self.graph.gemm(f"{layer}.down", inner, self.weights.matrix(f"{layer}.down"))
        return down, self.weights.bias(f"{layer}.down")

    def _gated(self, layer: str, x: str, up: str, up_bias: tuple[str, Float32Array] | None) -> str:
        gate = self.graph.gemm(f"{layer}.gate", x, self.weights.matrix(f"{layer}.gate"))
        bias = self.weights.bias(f"{layer}.gate")
        named = None if bias is None else (f"{layer}.gate.bias", bias)
        if up_bias is not None:
            up = self.graph.op("Add", [up, self.graph.constant(*up_bias)])
        return self.graph.op("Mul", [activate(self.graph, self.config.activation, gate, named), up])

    def _joined_projection(self, layer: str) -> tuple[Float32Array, Float32Array | None]:
        """Put query, key and value side by side: [D, 3 H d] and [3 H d].

        Heads shared by several queries (grouped-query attention) are repeated; the product is the
        same.
        """
        parts = [self._per_head(f"{layer}.{name}") for name in ("query", "key", "value")]
        weight = np.concatenate([weight for weight, _ in parts], axis=1)
        biases = [bias for _, bias in parts if bias is not None]
        return np.ascontiguousarray(weight), np.concatenate(biases) if biases else None

    def _per_head(self, layer: str) -> tuple[Float32Array, Float32Array | None]:
        weight, bias = self.weights.matrix(layer), self.weights.bias(layer)
        repeats = self.config.num_heads * self.head_size // weight.shape[1]
        if repeats > 1:
            weight = self._repeat(weight, repeats)
            bias = None if bias is None else self._repeat(bias[None], repeats)[0]
        return weight, bias

    def _repeat(self, columns: Float32Array, repeats: int) -> Float32Array:
        heads = columns.reshape(len(columns), -1, self.head_size)
        return np.repeat(heads, repeats, axis=1).reshape(len(columns), -1)

    def _rotate(self, rotary: RotaryConfig, x: str) -> str:
        """Rotate queries or keys [B, S, H d] by their position, half-split layout."""
        half = np.arange(0, self.head_size, 2, dtype=np.float32) / np.float32(self.head_size)
        rates = np.power(np.float32(rotary.theta), -half, dtype=np.float32)
        positions = np.arange(self.dimensions.max_position_embeddings, dtype=np.float32)
        angles = positions[:, None] * rates
        inputs = [
            x,
            self.graph.shape(0),
            self.graph.constant("encoder.rotary.cos", np.cos(angles)),
            self.graph.constant("encoder.rotary.sin", np.sin(angles)),
        ]
        heads = self.config.num_heads
        return self.graph.op("RotaryEmbedding", inputs, domain=MICROSOFT, num_heads=heads)


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
