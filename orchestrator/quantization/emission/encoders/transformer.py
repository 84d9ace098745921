"""The transformer encoder as ONNX nodes: every position of the norms, both masks, any feed-forward.

Units of layer N: ``encoder.layers.N.attention.qkv`` (the three projections side by side),
``.attention.output``, ``.feed_forward.up``, ``.feed_forward.gate`` (gated only) and
``.feed_forward.down``. Norms and activations are fused with the bias and residual before them, and
layer scales are multiplied into the weights before them. Shared layers (ALBERT) have units for each
use, so that a plan may treat them differently; equal matrices are stored once.

Legend: B batch, S length, D width, N outputs of a GEMM.
"""

import re
from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.quantization.emission.convolution import convolve, convolve_groups
from orchestrator.quantization.emission.embedded import Embedded
from orchestrator.quantization.emission.encoders.attention import AttentionEmitter
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import FLOAT, Norm, activate, with_bias
from orchestrator.quantization.emission.weights import Weights
from orchestrator.quantization.kinds import LOWEST

FINAL_NORM = "encoder.norm"


@dataclass(frozen=True, slots=True)
class Output:
    """Output of a sub-layer: a product [B, S, D], and the bias [D] still to be added."""

    product: str
    bias: Float32Array | None = None


class TransformerEmitter:
    """Writes one transformer encoder into a graph.

    Args:
        graph: Where the nodes go.
        config: The encoder.
        dimensions: Sizes of the model.
        weights: Its parameters.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        config: TransformerConfig,
        dimensions: Dimensions,
        weights: Weights,
    ) -> None:
        self.graph, self.config, self.dimensions = graph, config, dimensions
        self.weights = weights
        if config.shared_layers:
            first = re.compile(r"^encoder\.layers\.\d+")
            self.weights = weights.renamed(lambda name: first.sub("encoder.layers.0", name))
        self.norm = Norm(graph, self.weights, config.norm, config.norm_eps)

    def emit(self, embedded: Embedded) -> str:
        """Encode hidden [B, S, D] under the int32 mask [B, S]."""
        config, graph = self.config, self.graph
        attention = AttentionEmitter(graph, config, self.dimensions, self.weights, embedded)
        stream = Stream(graph, self.norm, embedded.hidden)
        for block in range(config.num_layers):
            self._block(block, stream, attention)
            if block == 0 and config.convolution is not None:
                stream.replace(self._convolution(embedded, stream.value()))
        final = config.norm_position != "post" and config.final_norm
        return stream.normed(FINAL_NORM) if final else stream.value()

    def _block(self, block: int, stream: "Stream", attention: AttentionEmitter) -> None:
        """Pass the residual stream through a block; see ``TransformerLayer`` for the positions."""
        layer, position = f"encoder.layers.{block}", self.config.norm_position
        before = position in ("pre", "both")
        for number in (1, 2):
            norm = f"{layer}.norm{number}"
            first = number == 1 and block == 0 and not self.config.first_norm
            read = stream.normed(norm) if before and not first else stream.value()
            if number == 1:
                output = self._output(f"{layer}.attention.output", attention.emit(block, read), 1)
            else:
                output = self._feed_forward(layer, read)
            if self.config.parallel:
                second = self._feed_forward(
                    layer, self.norm.plain(f"{layer}.norm2", stream.value())
                )
                stream.add(self._sum(output, second))
                return
            if position == "both":
                output = self._normed_output(layer, f"{layer}.post_norm{number}", output, number)
            elif position == "output":
                output = self._normed_output(layer, norm, output, number)
            stream.add(output)
            if position == "post":
                stream.replace_by_norm(norm)

    def _output(self, layer: str, x: str, number: int, low: float | None = None) -> Output:
        """Project x [B, S, N] >= low to [B, S, D]; the layer scale is in the weights."""
        weight, bias = self.weights.matrix(layer), self.weights.bias(layer)
        factors = self._scale(layer, number)
        if factors is not None and self.config.norm_position not in ("both", "output"):
            weight = np.ascontiguousarray(weight * factors)
            bias = None if bias is None else bias * factors
        return Output(*self.graph.linear(layer, x, weight, bias, low=low))

    def _scale(self, layer: str, number: int) -> Float32Array | None:
        """Return the factors of the sub-layer's output [D], if the model has any."""
        if self.config.layer_scale is None:
            return None
        block = ".".join(layer.split(".")[:3])
        return self.weights.array(f"{block}.scale{number}.weight")

    def _normed_output(self, layer: str, norm: str, output: Output, number: int) -> Output:
        """Normalize the output of a sub-layer; its scale follows."""
        whole = with_bias(self.graph, output.product, (f"{norm}.bias_before", output.bias))
        normed, factors = self.norm.plain(norm, whole), self._scale(layer, number)
        if factors is not None:
            name = f"{layer}.scale{number}.weight"
            normed = self.graph.op("Mul", [normed, self.graph.constant(name, factors)])
        return Output(normed)

    def _sum(self, first: Output, second: Output) -> Output:
        bias = first.bias if second.bias is None else second.bias
        if first.bias is not None and second.bias is not None:
            bias = first.bias + second.bias
        return Output(self.graph.op("Add", [first.product, second.product]), bias)

    def _feed_forward(self, block: str, x: str) -> Output:
        layer, activation = f"{block}.feed_forward", self.config.activation
        up, bias = self._linear(f"{layer}.up", x)
        if self.config.feed_forward == "dense":
            inner = activate(self.graph, activation, up, bias)
            return self._output(f"{layer}.down", inner, 2, LOWEST.get(activation))
        gate = activate(self.graph, activation, *self._linear(f"{layer}.gate", x))
        named = (f"{layer}.up.bias", None) if bias is None else bias
        inner = self.graph.op("Mul", [gate, with_bias(self.graph, up, named)])
        return self._output(f"{layer}.down", inner, 2)

    def _linear(self, layer: str, x: str) -> tuple[str, tuple[str, Float32Array] | None]:
        """Return the product of a layer, and its bias with a name if it is still to be added."""
        weight, bias = self.weights.matrix(layer), self.weights.bias(layer)
        product, rest = self.graph.linear(layer, x, weight, bias)
        return product, None if rest is None else (f"{layer}.bias", rest)

    def _bias(self, layer: str) -> tuple[str, Float32Array] | None:
        bias = self.weights.bias(layer)
        return None if bias is None else (f"{layer}.bias", bias)

    def _convolution(self, embedded: Embedded, hidden: str) -> str:
        """Add what a convolution sees of the embedded input to the first block's output."""
        config, unit, graph = self.config.convolution, "encoder.convolution", self.graph
        assert config is not None
        real = graph.op("Unsqueeze", [graph.op("Cast", [embedded.mask], to=FLOAT), graph.shape(-1)])
        x = graph.op("Mul", [embedded.hidden, real])
        kernel, bias = self.weights.array(f"{unit}.layer.weight"), self._bias(f"{unit}.layer")
        half = config.kernel_size // 2
        if config.groups == 1:
            local = convolve(graph, unit, x, kernel, around=(half, half))
            local = activate(graph, config.activation, local, bias)
        else:
            values = kernel, self.weights.array(f"{unit}.layer.bias")
            around = (half, half)
            local = convolve_groups(graph, unit, x, values, groups=config.groups, around=around)
            local = activate(graph, config.activation, local)
        norm = Norm(graph, self.weights, "layernorm", self.config.norm_eps)
        return norm.of_sum(f"{unit}.norm", local, hidden, None)


class Stream:
    """The residual stream: a value, and an output that is added by the next node that can.

    A norm reads the sum and, fused, also returns it.
    """

    def __init__(self, graph: GraphBuilder, norm: Norm, value: str) -> None:
        self.graph, self.norm, self._value = graph, norm, value
        self._added: Output | None = None

    def add(self, output: Output) -> None:
        """Add the output of a sub-layer."""
        self.value()
        self._added = output

    def replace(self, value: str) -> None:
        """Continue with another value."""
        self._value, self._added = value, None

    def replace_by_norm(self, layer: str) -> None:
        """Continue with the normalized sum (post-norm)."""
        assert self._added is not None
        added = self._added
        self.replace(self.norm.of_sum(layer, added.product, self._value, added.bias))

    def normed(self, layer: str) -> str:
        """Return the normalized sum, and keep the sum."""
        if self._added is None:
            return self.norm.plain(layer, self._value)
        product, bias = self._added.product, self._added.bias
        normed, total = self.norm.with_sum(layer, product, self._value, bias)
        self.replace(total)
        return normed

    def value(self) -> str:
        """Return the sum, [B, S, D]."""
        if self._added is not None:
            name = f"{self._added.product}.bias"
            product = with_bias(self.graph, self._added.product, (name, self._added.bias))
            self.replace(self.graph.op("Add", [self._value, product]))
        return self._value
